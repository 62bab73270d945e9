"""The functions are Rust; the workflow cannot tell."""

import asyncio

from functions import checksum, word_count


async def main(text: str = "to be or not to be"):
    words, digest = await asyncio.gather(word_count(text), checksum(text, rounds=3))
    return {"words": words, "checksum": digest}
