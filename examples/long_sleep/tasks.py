import durable


def send(to, text):
    with open("sent.log", "a") as log:
        log.write(f"{durable.idempotency_key()} {to}: {text}\n")
    return f"{to}: {text}"
