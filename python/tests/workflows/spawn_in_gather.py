import asyncio
from durable import spawn
from tasks import double


async def work(n):
    return await double(n)


async def main():
    return await asyncio.gather(spawn(work(1)), spawn(work(2)), double(3))
