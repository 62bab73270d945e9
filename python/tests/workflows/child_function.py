import asyncio

from durable import run_child, start_child
from tasks import double

SCALE = 10


async def scaled(n, plus: int = 0):
    return SCALE * await double(n) + plus


async def factorial(n):
    return 1 if n < 2 else n * await run_child(factorial, {"n": n - 1})


async def main():
    handles = [start_child(scaled, {"n": n}) for n in range(3)]
    some = await asyncio.gather(*handles)
    return [some, await run_child(workflow=scaled, inputs={"n": 1, "plus": 5}), await run_child(factorial, {"n": 4})]
