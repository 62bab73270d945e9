from tasks import add, echo


async def main():
    a = await echo(1)
    b = await add(a, 2)
    return [a, b, await echo("end")]
