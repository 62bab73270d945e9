from durable import settle


async def main():
    return await settle()
