import asyncio


async def after(seconds, name, seen):
    await asyncio.sleep(seconds)
    seen.append(name)


async def main():
    seen = []
    await asyncio.gather(after(3, "c", seen), after(1, "a", seen), after(2, "b", seen))
    return seen
