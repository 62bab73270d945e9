from tasks import echo


async def main():
    n = await echo(3)
    raise ValueError(f"own {n}")
