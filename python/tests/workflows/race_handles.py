import asyncio

import durable


async def slow(value, seconds):
    await asyncio.sleep(seconds)
    if value == "wrong":
        raise ValueError(value)
    return value


async def main():
    handle = durable.spawn(slow("done", 2.5))
    seen = []
    while True:
        index, value = await durable.race(handle, asyncio.sleep(1, "still waiting"))
        seen.append(value)
        if index == 0:
            break
    one, two = durable.spawn(slow("one", 1)), durable.spawn(slow("wrong", 2))
    seen.append(list(await durable.race(two, one)))
    try:
        await two
    except ValueError as error:
        seen.append(str(error))
    try:
        await durable.race(two, asyncio.sleep(60))
    except ValueError as error:
        seen.append(str(error))
    return seen + [await one, await handle]
