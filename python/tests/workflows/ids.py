import uuid
import durable


async def main():
    one, two = durable.uuid4(), str(uuid.uuid4())
    return [len(one), len(two), one != two, len(durable.execution_id()) > 5]
