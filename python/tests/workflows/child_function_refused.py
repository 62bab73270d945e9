from durable import run_child


def plain(n):
    return n


async def main():
    async def nested(n):
        return n

    said = []
    for given in (plain, nested, lambda n: n):
        try:
            await run_child(given, {"n": 1})
        except TypeError as error:
            said.append(str(error))
    return said
