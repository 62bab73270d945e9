import time


def add(a, b):
    time.sleep(0.2)
    print(f"adding {a} and {b}")
    return a + b


async def multiply(a, b):
    return a * b
