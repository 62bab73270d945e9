import asyncio
from durable import timeout
from tasks import echo


async def main():
    return [await timeout(echo("quick"), 5), await timeout(asyncio.sleep(1, "slept"), 5)]
