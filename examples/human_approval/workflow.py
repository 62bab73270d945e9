"""An expense waits for a person: reminded after a while, then somebody else may decide, and in the end it is refused."""

import durable
from tasks import notify, pay

PATIENCE = [("manager", 3600), ("director", 86400)]


async def main(amount: float = 120.0, to: str = "ada", patience: list = PATIENCE):
    for who, seconds in patience:
        durable.set_status(f"waiting for the {who}")
        await notify(who, f"{to} asks for {amount}: durable signal {durable.execution_id()} decision '\"yes\"'")
        try:
            decision = await durable.wait_signal("decision", timeout=seconds)
        except durable.SignalTimeout:
            durable.log("no answer", who=who)
            continue
        if decision != "yes":
            return {"status": "refused", "by": who, "why": decision}
        receipt = await durable.call(pay, to, amount, retries=5, idempotency_key=f"expense-{durable.execution_id()}")
        return {"status": "paid", "by": who, "receipt": receipt}
    return {"status": "expired"}
