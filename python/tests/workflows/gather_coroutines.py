import asyncio
from tasks import add, double


async def pipeline(n):
    first = await double(n)
    return await add(first, 1)


async def main():
    return await asyncio.gather(*[pipeline(n) for n in range(3)])
