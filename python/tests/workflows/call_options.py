from durable import call
from tasks import add, options


async def main():
    return [await call(add, 1, 2, retries=5, timeout="5s"), await call(options, 1, b=5, backoff="1s..5s")]
