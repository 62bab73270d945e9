import asyncio
from tasks import echo


async def main():
    await asyncio.sleep(0)
    return await echo("after")
