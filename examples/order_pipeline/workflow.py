"""An order: stock and payment side by side, then one child execution per parcel, then a review some days later."""

import asyncio

import durable
from tasks import ask_for_review, charge, notify, refund, reserve

PARCEL = '''
import durable
from tasks import hand_over, pack

async def main(order: str, item: str):
    label = await pack(order, item)
    token, delivered = durable.callback(timeout=14 * 86400)
    await hand_over(label, token)
    return {"item": item, "label": label, "signed_by": await delivered}
'''


async def main(order: str = "A-1", items: list = ["book", "lamp"], review_after: float = 3 * 86400):
    stock, payment = await durable.settle(reserve(order, items), charge(order, 20.0 * len(items)))
    if isinstance(stock, Exception):
        if not isinstance(payment, Exception):
            await refund(payment)
        return {"order": order, "status": "out of stock", "why": str(stock)}
    if isinstance(payment, Exception):
        return {"order": order, "status": "not paid", "why": str(payment)}
    durable.set_status("sending")
    parcels = [durable.run_child("parcel.py", {"order": order, "item": item}, source=PARCEL) for item in items]
    delivered = await asyncio.gather(*parcels)
    await notify(order, f"{len(delivered)} parcels have arrived")
    await asyncio.sleep(review_after)
    return {"order": order, "status": "done", "parcels": delivered, "review": await ask_for_review(order)}
