"""Many pages, a few at a time; those that fail are listed instead of ending the rest."""

import durable
from tasks import fetch


async def attempt(page: int):
    try:
        return {"page": page, "words": await durable.call(fetch, page, retries=2, backoff="10ms..1s")}
    except ValueError as error:
        return {"page": page, "error": str(error)}


async def main(pages: int = 20, limit: int = 4):
    results = await durable.map(attempt, range(pages), limit=limit)
    return {
        "words": sum(result.get("words", 0) for result in results),
        "failed": [result["page"] for result in results if "error" in result],
    }
