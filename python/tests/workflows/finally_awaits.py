from tasks import echo, fail


async def main():
    seen = []
    try:
        try:
            await fail("first")
        finally:
            seen.append(await echo("cleaned"))
    except ValueError as error:
        seen.append(str(error))
    return seen
