import asyncio
from datetime import timedelta
import durable


async def main():
    before = durable.now()
    await durable.sleep_until(before + timedelta(days=400))
    days = (durable.now() - before).total_seconds() / 86400
    await asyncio.sleep(3600)
    return [round(days), round((durable.now() - before).total_seconds() / 3600)]
