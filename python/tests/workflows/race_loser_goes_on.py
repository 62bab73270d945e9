import asyncio
from durable import race


async def late(seen):
    await asyncio.sleep(4)
    seen.append("late")


async def main():
    seen = []
    await race(late(seen), asyncio.sleep(1))
    seen.append("raced")
    await asyncio.sleep(10)
    return seen
