from tasks import add


async def main():
    total = 0
    for n in range(10):
        total = await add(total, n)
        if total > 20:
            break
    return {"total": total, "n": n}
