import asyncio
from durable import spawn
from tasks import echo


async def work(n):
    await asyncio.sleep(n)
    return await echo(n)


async def main():
    handles = [spawn(work(n)) for n in (3, 1, 2)]
    return [await handle for handle in handles]
