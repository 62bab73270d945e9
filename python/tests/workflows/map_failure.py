from durable import map
from tasks import fail


async def main():
    try:
        await map(fail, ["a", "b"], limit=1)
    except ValueError as error:
        return str(error)
