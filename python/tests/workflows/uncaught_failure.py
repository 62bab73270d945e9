from tasks import echo, fail


async def main():
    await echo(1)
    await fail("not caught")
