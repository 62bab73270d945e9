import asyncio
from durable import race


async def main():
    return list(await race(asyncio.sleep(5, "five"), asyncio.sleep(2, "two"), asyncio.sleep(9, "nine")))
