from tasks import options


async def main():
    return [await options(1), await options(a=1, b=3)]
