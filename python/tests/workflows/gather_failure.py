import asyncio
from tasks import echo, fail


async def main():
    try:
        await asyncio.gather(echo(1), fail("one of them"))
    except ValueError as error:
        return str(error)
