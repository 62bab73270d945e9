"""What the outside world does: here it only writes down what happened."""

import durable


def notify(who, text):
    print(f"to the {who}: {text}")


def pay(to, amount):
    # The key is the same for every attempt, so a payment service takes the money once.
    return f"{to} got {amount} ({durable.idempotency_key()[:7]}…)"
