from durable import run_child

CHILD = """
from tasks import double


async def main(n):
    return await double(n)
"""


async def main():
    return await run_child("child.py", {"n": 21}, source=CHILD)
