"""An agent: asks a model what to do, does it, tells the model, until it is done. Each step is recorded, so that a crash in
the fortieth step costs neither the money nor the answers of the thirty-nine before."""

import durable
from tasks import ask_model, calculate, look_up

TOOLS = {"look_up": look_up, "calculate": calculate}
STEPS = 20


async def main(question: str = "How old is the bridge in twice its years?"):
    messages = [{"role": "user", "content": question}]
    for step in range(STEPS):
        durable.set_status({"step": step, "messages": len(messages)})
        answer = await durable.call(ask_model, messages, retries=4, backoff="1s..30s", timeout="2m")
        messages.append({"role": "assistant", **answer})
        if "final" in answer:
            return {"answer": answer["final"], "steps": step + 1}
        results = await durable.settle(*[use(tool) for tool in answer["tools"]])
        for tool, result in zip(answer["tools"], results):
            messages.append({"role": "tool", "name": tool["name"], "content": str(result)})
    return {"answer": None, "steps": STEPS}


async def use(tool: dict):
    if tool["name"] not in TOOLS:
        raise ValueError(f"there is no tool {tool['name']}")
    return await durable.timeout(TOOLS[tool["name"]](**tool["arguments"]), 30)
