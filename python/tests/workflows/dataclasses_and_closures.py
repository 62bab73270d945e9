from dataclasses import dataclass
from tasks import double


@dataclass
class Item:
    name: str
    count: int = 1


async def main():
    items = [Item("a"), Item("b", 4)]
    async def grow(item):
        item.count = await double(item.count)
    for item in items:
        await grow(item)
    return {item.name: item.count for item in items}
