from durable import SignalTimeout, wait_signal


async def main():
    try:
        await wait_signal("never", timeout=5)
    except SignalTimeout as error:
        return str(error)
