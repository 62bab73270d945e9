import asyncio
from durable import TaskTimeout, timeout


async def inner():
    try:
        await timeout(asyncio.sleep(50), 30)
    except TaskTimeout:
        return "inner"


async def main():
    try:
        return await timeout(inner(), 5)
    except TaskTimeout:
        return "outer"
