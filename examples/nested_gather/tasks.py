import asyncio

CITIES = {
    "north": {"Aalborg": 120, "Skagen": 8},
    "south": {"Odense": 180, "Svendborg": 27, "Ribe": 8},
    "west": {"Esbjerg": 72},
}


async def cities_of(region):
    await asyncio.sleep(0.05 * len(CITIES[region]))
    return sorted(CITIES[region])


async def population(city):
    await asyncio.sleep(0.01)
    return next(cities[city] for cities in CITIES.values() if city in cities)


def summarize(region, counts):
    return {"region": region, "total": sum(counts.values()), "largest": max(counts, key=counts.get)}
