from durable import spawn
from tasks import fail


async def work():
    await fail("in the background")


async def main():
    handle = spawn(work())
    try:
        await handle
    except ValueError as error:
        return str(error)
