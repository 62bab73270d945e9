import asyncio
from durable import TaskTimeout, timeout


async def main():
    try:
        await timeout(asyncio.sleep(60), 3)
    except TaskTimeout as error:
        return str(error)
