from beside.worker import resize
from durable import run_child


async def main(n):
    return ["images", n]


async def thumb(n):
    return await run_child(resize, {"n": 10 * n})
