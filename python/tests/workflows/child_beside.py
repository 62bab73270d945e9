import beside.images as images
from beside.worker import main as worker, resize
from durable import run_child
from tasks import double


async def main():
    by_name = await run_child("beside/worker.py", {"n": await double(1)})
    by_function = await run_child(worker, {"n": 2})
    return [by_name, by_function, await run_child(resize, {"n": 3}), await run_child(images.thumb, {"n": 4})]
