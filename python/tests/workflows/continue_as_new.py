from durable import continue_as_new
from tasks import add


async def main(n=0, total=0):
    total = await add(total, n)
    if n < 4:
        continue_as_new(n=n + 1, total=total)
    return total
