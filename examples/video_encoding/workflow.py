"""Encodes one clip at several sizes in parallel, then writes a playlist of the results."""

import asyncio

from tasks import create_playlist, encode_video, generate_clip, probe

SIZES = [(64, 36), (96, 54), (128, 72), (160, 90)]


async def encode(clip: str, folder: str, width: int, height: int):
    """One pipeline: encode, then look at the result. None waits for another."""
    path = await encode_video(clip, folder, width=width, height=height)
    return await probe(path)


async def main(folder: str = "encoded", seconds: int = 4):
    clip = await generate_clip(folder, seconds=seconds)
    print(f"encoding {clip['frames']} frames at {len(SIZES)} sizes")
    videos = await asyncio.gather(*[encode(clip["path"], folder, w, h) for w, h in SIZES])
    playlist = await create_playlist(folder, videos)
    return {"playlist": playlist, "videos": [video["path"] for video in videos]}


if __name__ == "__main__":
    print(asyncio.run(main()))
