from durable import settle
from tasks import echo, fail


async def main():
    results = await settle(echo(1), fail("two"), echo(3))
    return [str(result) if isinstance(result, Exception) else result for result in results]
