from tasks import total


async def main():
    sums = [await total([{"n": 1}, {"n": 2}]), await total([], first={"n": 3})]
    try:
        await total([{"n": 1}, {"m": 2}])
    except TypeError as error:
        return [sums, str(error)]
