from tasks import double


async def main():
    return [await double(n) for n in range(4) if n % 2]
