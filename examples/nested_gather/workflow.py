"""Every region is worked on by itself; inside a region, every city is."""

import asyncio

from tasks import cities_of, population, summarize


async def region(name: str):
    cities = await cities_of(name)
    counts = await asyncio.gather(*[population(city) for city in cities])
    return await summarize(name, dict(zip(cities, counts)))


async def main(regions: list = ["north", "south", "west"]):
    reports = await asyncio.gather(*[region(name) for name in regions])
    return {"total": sum(report["total"] for report in reports), "reports": reports}


if __name__ == "__main__":
    print(asyncio.run(main()))
