from durable import spawn
from tasks import echo


async def work():
    return await echo({"a": [1, 2]})


async def main():
    handle = spawn(work())
    return [await handle, await handle]
