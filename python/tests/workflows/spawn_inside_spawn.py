from durable import spawn
from tasks import add


async def inner(n):
    return await add(n, 1)


async def outer(n):
    handle = spawn(inner(n))
    return await add(await handle, 10)


async def main():
    return await spawn(outer(5))
