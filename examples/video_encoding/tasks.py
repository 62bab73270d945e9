"""Real work on real files: a raw clip is generated, downscaled, compressed and written.

With ffmpeg on the path, ffmpeg encodes; otherwise a stand-in reads every frame, averages its pixels
down to the wanted size, stores the difference to the frame before and compresses that.
"""

import json
import os
import shutil
import subprocess
import time
import zlib

import durable

WIDTH, HEIGHT, FPS = 320, 180, 10


def generate_clip(folder, seconds):
    """A raw 8-bit grey clip: a bright bar that moves over a gradient."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "clip.gray")
    frames = seconds * FPS
    gradient = [bytes((x + y) % 200 for x in range(WIDTH)) for y in range(HEIGHT)]
    with replacing(path) as out:
        for frame in range(frames):
            at = frame * 7 % (WIDTH - 20)
            for row in gradient:
                out.write(row[:at] + b"\xff" * 20 + row[at + 20 :])
    return {"path": path, "frames": frames}


@durable.function(retries=2, backoff="1s..10s", timeout="5m")
def encode_video(clip, folder, *, width, height):
    suffix = "mp4" if shutil.which("ffmpeg") else "zvid"
    path = os.path.join(folder, f"{height}p.{suffix}")
    print(f"encoding {path} in process {os.getpid()}")
    if suffix == "mp4":
        encode_with_ffmpeg(clip, path, width, height)
    else:
        encode_with_zlib(clip, path, width, height)
    with open(os.path.join(folder, "runs.log"), "a") as log:
        log.write(f"{durable.idempotency_key()} {path}\n")
    return path


def encode_with_ffmpeg(clip, path, width, height):
    source = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", clip]
    subprocess.run(
        ["ffmpeg", "-loglevel", "error", "-y", *source, "-vf", f"scale={width}:{height}", "-threads", "1",
         "-f", "mp4", path + ".part"],
        check=True,
    )
    os.replace(path + ".part", path)
    time.sleep(1)  # such a small clip takes ffmpeg no time; a real one does


def encode_with_zlib(clip, path, width, height):
    before = bytes(width * height)
    with open(clip, "rb") as source, replacing(path) as out:
        out.write(json.dumps({"width": width, "height": height, "fps": FPS}).encode() + b"\n")
        while frame := source.read(WIDTH * HEIGHT):
            small = downscale(frame, width, height)
            packed = zlib.compress(bytes((a - b) % 256 for a, b in zip(small, before)), 9)
            out.write(len(packed).to_bytes(4, "big") + packed)
            before = small


def downscale(frame, width, height):
    """Averages four pixels of the block that each small pixel stands for."""
    dx, dy = WIDTH // width or 1, HEIGHT // height or 1
    small = bytearray()
    for y in range(height):
        top = y * HEIGHT // height * WIDTH
        bottom = top + (dy // 2) * WIDTH
        for x in range(width):
            left = x * WIDTH // width
            right = left + dx // 2
            small.append((frame[top + left] + frame[top + right] + frame[bottom + left] + frame[bottom + right]) // 4)
    return bytes(small)


async def probe(path):
    return {"path": path, "bytes": os.path.getsize(path)}


def create_playlist(folder, videos):
    path = os.path.join(folder, "playlist.m3u8")
    with replacing(path) as out:
        out.write(b"#EXTM3U\n")
        for video in videos:
            bandwidth = video["bytes"] * 8
            out.write(f"#EXT-X-STREAM-INF:BANDWIDTH={bandwidth}\n{os.path.basename(video['path'])}\n".encode())
    return path


class replacing:
    """A file that appears complete or not at all, however often its function is run."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        self.file = open(self.path + f".part-{os.getpid()}", "wb")
        return self.file

    def __exit__(self, kind, *_):
        self.file.close()
        if kind is None:
            os.replace(self.file.name, self.path)
        else:
            os.unlink(self.file.name)
