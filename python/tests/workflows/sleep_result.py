import asyncio


async def main():
    return await asyncio.gather(asyncio.sleep(2, "two"), asyncio.sleep(1, "one"))
