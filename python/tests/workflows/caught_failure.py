from tasks import fail


async def main():
    try:
        await fail("boom")
    except ValueError as error:
        return str(error)
