from durable import race


async def main():
    await race()
