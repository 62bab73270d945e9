from durable import run_child
from tasks import double


async def main(n):
    return ["worker", await double(n), await run_child("beside/images.py", {"n": n})]


async def resize(n):
    return ["resized", n]
