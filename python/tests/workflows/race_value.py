import asyncio
from durable import race
from tasks import echo


async def slow():
    await asyncio.sleep(10)
    return await echo("slow")


async def main():
    return list(await race(slow(), echo("fast")))
