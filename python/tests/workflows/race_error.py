import asyncio
from durable import race
from tasks import fail


async def main():
    try:
        await race(asyncio.sleep(5), fail("first to end"))
    except ValueError as error:
        return str(error)
