import asyncio
from durable import start_child

CHILD = "async def main(n): return n * n"


async def main():
    return await asyncio.gather(*[start_child("c.py", {"n": n}, source=CHILD) for n in range(4)])
