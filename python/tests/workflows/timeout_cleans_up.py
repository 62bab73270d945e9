import asyncio
from durable import TaskTimeout, timeout
from tasks import echo


async def work(seen):
    try:
        await asyncio.sleep(100)
    finally:
        seen.append(await echo("released"))


async def main():
    seen = []
    try:
        await timeout(work(seen), 2)
    except TaskTimeout:
        seen.append("timeout")
    await asyncio.sleep(3)
    return sorted(seen)
