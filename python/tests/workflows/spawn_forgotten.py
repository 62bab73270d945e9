import asyncio
from durable import spawn


async def forever():
    while True:
        await asyncio.sleep(1)


async def main():
    spawn(forever())
    await asyncio.sleep(5)
    return "done"
