from tasks import echo, fail


async def step(name, log):
    try:
        return await echo(name)
    finally:
        log.append(f"end {name}")


async def main():
    log = []
    try:
        for name in ("a", "b"):
            log.append(await step(name, log))
        await fail("stop")
    except ValueError:
        for name in ("b", "a"):
            log.append(await echo(f"undo {name}"))
    return log
