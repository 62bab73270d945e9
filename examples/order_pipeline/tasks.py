"""A shop in a few lines. The courier's system signs for parcels: here, `hand_over` writes the token into a file, and
whoever has it completes the callback: POST /callbacks/TOKEN/complete."""

import durable


def reserve(order, items):
    if "piano" in items:
        raise durable.NonRetryable("no piano left")
    return len(items)


def charge(order, amount):
    return {"order": order, "amount": amount, "key": durable.idempotency_key()}


def refund(payment):
    print(f"refunded {payment['amount']}")


def pack(order, item):
    return f"{order}/{item}"


def hand_over(label, token):
    with open("parcels.txt", "a") as file:
        file.write(f"{label} {token}\n")


def notify(order, text):
    print(f"{order}: {text}")


def ask_for_review(order):
    return "five stars"
