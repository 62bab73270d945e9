from tasks import missing


async def main():
    try:
        await missing("k")
    except KeyError:
        return "no key"
