import asyncio
from tasks import echo


async def pair(n):
    return await asyncio.gather(echo(n), echo(-n))


async def both():
    return await asyncio.gather(pair(2), pair(3))


async def main():
    return await asyncio.gather(pair(1), echo("x"), both())
