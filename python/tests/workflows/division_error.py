from tasks import echo


async def main():
    n = await echo(0)
    return 1 / n
