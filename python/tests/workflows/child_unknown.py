from durable import run_child


async def main():
    try:
        await run_child("nobody")
    except NameError as error:
        return str(error)
