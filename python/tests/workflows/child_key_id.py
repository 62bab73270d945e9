from durable import run_child


async def child():
    return 1


async def main():
    try:
        await run_child(child, id="key-0123")
    except ValueError as error:
        return str(error)
