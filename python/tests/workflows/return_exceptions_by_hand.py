import asyncio
from tasks import echo, fail


async def safe(call):
    try:
        return ["ok", await call]
    except Exception as error:
        return ["error", type(error).__name__, str(error)]


async def main():
    return await asyncio.gather(safe(echo(1)), safe(fail("x")))
