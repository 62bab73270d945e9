from durable import map
from tasks import double


async def main():
    return await map(double, [3, 1, 2])
