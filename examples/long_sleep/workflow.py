"""A reminder after a while: a sleep costs nothing and survives the process."""

import asyncio

from tasks import send


async def main(to: str = "you", seconds: float = 60):
    first = await send(to, "welcome")
    await asyncio.sleep(seconds)
    second = await send(to, "still there?")
    return [first, second]


if __name__ == "__main__":
    print(asyncio.run(main()))
