import asyncio
from tasks import double


async def main():
    return await asyncio.gather(*[double(n) for n in range(5)])
