from durable import timeout
from tasks import fail


async def main():
    try:
        await timeout(fail("inside"), 9)
    except ValueError as error:
        return str(error)
