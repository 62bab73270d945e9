from durable import callback


async def main():
    token, answer = callback(timeout=4)
    assert len(token) > 10
    try:
        await answer
    except TimeoutError as error:
        return str(error)
