from durable import run_child


async def main():
    try:
        await run_child("c.py", source="async def main(): raise ValueError('child')")
    except ValueError as error:
        return str(error)
