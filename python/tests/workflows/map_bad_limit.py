from durable import map
from tasks import echo


async def main():
    await map(echo, [1], limit=0)
