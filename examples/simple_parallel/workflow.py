import asyncio

from tasks import add, multiply


async def main(a: int = 2, b: int = 3):
    total, product = await asyncio.gather(add(a, b), multiply(a, b))
    return {"sum": total, "product": product}


if __name__ == "__main__":
    print(asyncio.run(main()))
