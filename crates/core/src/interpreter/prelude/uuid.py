# The module `uuid`, as a workflow sees it: random ids, the same ones however often a turn is repeated.


class UUID:
    def __init__(self, hex):
        digits = hex.replace("urn:", "").replace("uuid:", "").strip("{}").replace("-", "").lower()
        if len(digits) != 32:
            raise ValueError("badly formed hexadecimal UUID string")
        self.int = int(digits, 16)
        self.hex = digits

    def __str__(self):
        h = self.hex
        return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"

    def __repr__(self):
        return f"UUID('{self}')"

    # One that has come in is a record of these two.
    def __eq__(self, other):
        return self.int == other.int if isinstance(other, UUID) else (self.hex, self.int) == other

    def __hash__(self):
        return hash((self.hex, self.int))


class __durable_Uuid__:
    pass


def __durable_uuid_module__(UUID):
    def uuid4():
        return UUID(__durable_uuid4__())

    module = __durable_Uuid__()
    module.UUID, module.uuid4 = UUID, uuid4
    return module


# Kept: what nobody holds is gone, and could not be imported.
__durable_uuid_made__ = __durable_uuid_module__(UUID)
__durable_register__("uuid", __durable_uuid_made__)
