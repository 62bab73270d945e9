from durable import map
from tasks import echo


async def one(n):
    return await echo(n * 10)


async def main():
    return await map(one, range(7), limit=3)
