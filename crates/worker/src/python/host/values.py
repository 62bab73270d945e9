"""Values of functions ⇄ JSON. The table is in the documentation of durable_core::interpreter::value."""

import ast
import base64
import builtins
import collections
import dataclasses
import datetime
import decimal
import enum
import io
import json
import math
import os
import pathlib
import re
import sys
import types
import uuid

from _durable_fit import Record

MAX_BYTES = 256 << 20
MAX_DEPTH = 100
MAX_MESSAGE = 16 << 10
MAX_TRACEBACK = 64 << 10


class Refused(TypeError):
    """What cannot be sent, and where in the value it was seen."""

    path = ""

    def below(self, step):
        self.path = step + self.path
        return self

    def __str__(self):
        text = super().__str__()
        return f"result{self.path}: {text}" if self.path else text


def encode(value):
    return Encoder().encode(value, 0, False)


class Encoder:
    """`hashed` says that the value is a key or an element of a set, here and where it arrives."""

    def __init__(self):
        self.room = MAX_BYTES

    def spend(self, size):
        self.room -= size
        if self.room < 0:
            raise too_large(MAX_BYTES - self.room)

    def encode(self, value, depth, hashed):
        if depth > MAX_DEPTH:
            raise Refused("the value is nested too deeply, or contains itself")
        self.spend(2)
        kind = type(value)
        if value is None or kind in (bool, int):
            return value
        if kind is str:
            return self.text(value)
        if kind is float:
            return value if math.isfinite(value) else {"$py": "float", "value": str(value)}
        if kind is list:
            return self.items(value, depth + 1, False)
        if kind is dict:
            return self.dict(value, depth)
        if kind in (tuple, set, frozenset):
            return {"$py": kind.__name__, "items": self.items(value, depth + 2, hashed or kind is not tuple)}
        for base, encoder in ENCODERS:
            if isinstance(value, base):
                return encoder(self, value, depth, hashed)
        return self.other(value, depth, hashed)

    def text(self, value):
        """A lone surrogate, as in a file name that is not UTF-8, has no place in JSON."""
        self.spend(len(value))
        try:
            value.encode()
        except UnicodeEncodeError as error:
            where = f"character {error.start} of the text is a lone surrogate (\\u{ord(value[error.start]):04x})"
            raise Refused(f"{where}: send bytes, for example os.fsencode(name)") from None
        return value

    def items(self, values, depth, hashed):
        done = []
        try:
            for item in values:
                done.append(self.encode(item, depth, hashed))
        except Refused as error:
            raise error.below(f"[{len(done)}]")
        return done

    def dict(self, value, depth, step=lambda key: f"[{shown(key)}]"):
        done, key = {}, None
        try:
            if all(isinstance(key, str) and key != "$py" for key in value):
                for key, item in value.items():
                    done[self.text(str.__str__(key))] = self.encode(item, depth + 1, False)
                return done
            items = []
            for key, item in value.items():
                items.append([self.encode(key, depth + 3, True), self.encode(item, depth + 3, False)])
            return {"$py": "dict", "items": items}
        except Refused as error:
            raise error.below(step(key))

    def record(self, value, fields, depth, hashed, frozen):
        """The fields of an instance; frozen, they can be hashed where they arrive."""
        if hashed and not frozen:
            if type(value).__hash__ is object.__hash__:
                raise Refused(f"a {name_of(value)} is no key and no element of a set: it is known by its identity, not by its contents")
            frozen = True
        if frozen and "$py" not in fields:
            done = {}
            try:
                for name, item in fields.items():
                    done[self.text(name)] = self.encode(item, depth + 2, hashed)
            except Refused as error:
                raise error.below(f".{name}")
            return {"$py": "namedtuple", "type": type(value).__name__, "fields": done}
        fields = self.dict(fields, depth + 1, lambda name: f".{name}")
        return {"$py": "object", "type": type(value).__name__, "fields": fields}

    def other(self, value, depth, hashed):
        if is_scalar_array(value):
            return self.scalar(value, depth, hashed)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            params = getattr(value, "__dataclass_params__", None)
            return self.record(value, fields, depth, hashed, bool(params and params.frozen and params.eq))
        if isinstance(value, UNSENDABLE) or callable(value):
            raise unsendable(value)
        fields = fields_of(value)
        if fields is None:
            raise unsendable(value)
        return self.record(value, fields, depth, hashed, False)

    def scalar(self, value, depth, hashed):
        """A number of numpy, or an array of no dimensions."""
        plain = value.item()
        dates = getattr(value.dtype, "kind", "") in "mM"
        if type(plain) is type(value) or (dates and isinstance(plain, int)):
            raise unsendable(value)
        return self.encode(plain, depth, hashed)

    def enum(self, value, depth, hashed):
        plain = value.value
        if type(plain) in (str, int, float, bytes, bool) and isinstance(value, type(plain)):
            return self.encode(plain, depth, hashed)
        return self.record(value, {"name": value.name, "value": plain}, depth, hashed, True)

    def named_tuple(self, value, depth, hashed):
        names = getattr(value, "_fields", None)
        if names is None:
            return self.encode(tuple(value), depth, hashed)
        return self.record(value, dict(zip(names, tuple(value))), depth, hashed, True)

    def unhashed(self, value, plain, depth, hashed):
        """What is a list, dict or set where it arrives."""
        if hashed:
            raise Refused(f"a {name_of(value)} is no key and no element of a set where it arrives, as a {type(plain).__name__}")
        return self.encode(plain, depth, False)

    def exception(self, value, depth, hashed):
        if hashed:
            raise Refused(f"a {name_of(value)} is no key and no element of a set: it is known by its identity, not by its contents")
        kind = type(value)
        tagged = {"$py": "exception", "type": builtin_name(kind), "message": clipped(message_of(value), MAX_MESSAGE)}
        if not value.args:
            tagged["message"] = None
        tagged["bases"] = builtin_bases(kind)
        return tagged

    def time(self, value, depth, hashed):
        if value.tzinfo is not None and value.utcoffset() is None:
            raise Refused(f"a time in a zone whose offset depends on the date ({value.tzinfo}): send a datetime")
        return with_zone({"$py": "time", "value": datetime.time.isoformat(value)}, value)

    def bytes(self, value, depth, hashed):
        value = bytes(value)
        self.spend(len(value) // 3 * 4)
        return {"$py": "bytes", "base64": base64.b64encode(value).decode()}


UNSENDABLE = (io.IOBase, types.ModuleType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
INSTEAD = {
    "range": "list(…)", "dict_keys": "list(…)", "dict_values": "list(…)", "dict_items": "dict(…)", "generator": "list(…)",
    "map": "list(…)", "filter": "list(…)", "zip": "list(…)", "Fraction": "str(…)", "ndarray": ".tolist()",
    "DataFrame": '.to_dict("records")', "Series": ".tolist()", "Tensor": ".tolist()", "array": ".tolist()",
    "datetime64": ".astype(…) or str(…)", "timedelta64": ".astype(…) or str(…)",
}  # fmt: skip


def unsendable(value):
    instead = INSTEAD.get(type(value).__name__)
    return Refused(f"a {name_of(value)} cannot be sent: return {f'plain data, for example {instead}' if instead else 'plain data'}")


def too_large(size):
    return Refused(
        f"it is larger than {MAX_BYTES >> 20} MiB ({size >> 20} MiB): store it in a file or an object store and return its name"
    )


def name_of(value):
    """The name of its type as people know it: `socket.socket`, but `Row`."""
    kind = type(value)
    known = kind.__module__ in ("builtins", "__main__") or not is_foreign(kind)
    return kind.__name__ if known else f"{kind.__module__}.{kind.__name__}"


def is_foreign(kind):
    """Whether it is of a package with a name of its own that people know."""
    return "." in kind.__module__ or kind.__module__ in ("numpy", "torch", "pandas", *getattr(sys, "stdlib_module_names", ()))


def shown(key):
    text = json.dumps(key, ensure_ascii=False) if type(key) is str else repr(key)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 60 else text[:60] + "…"


def is_scalar_array(value):
    return getattr(value, "shape", None) == () and hasattr(value, "dtype") and callable(getattr(value, "item", None))


def fields_of(value):
    """The state of an instance, in `__dict__` or slots; None, if it has none that people gave it."""
    kind = type(value)
    slots = []
    for base in reversed(kind.__mro__):
        own = vars(base).get("__slots__", ())
        slots += [own] if isinstance(own, str) else list(own)
    slots = [name for name in slots if name not in ("__dict__", "__weakref__")]
    if slots and kind.__module__.split(".")[0] in getattr(sys, "stdlib_module_names", ()):
        return None
    if not hasattr(value, "__dict__") and not slots:
        return None
    if hasattr(kind, "model_fields") and hasattr(kind, "model_validate"):  # a pydantic model: its slots are its own affair
        return {**vars(value), **(getattr(value, "__pydantic_extra__", None) or {})}
    fields = {name: getattr(value, name) for name in slots if hasattr(value, name) and not name.startswith("__")}
    return {**fields, **getattr(value, "__dict__", {})}


def with_zone(tagged, value):
    zone = value.tzinfo
    if zone is not None and zone is not datetime.timezone.utc:
        name, offset = value.tzname(), value.utcoffset()
        if name and name != "UTC" and offset is not None and name != datetime.timezone(offset).tzname(None):
            tagged["zone"] = name
    if value.fold:
        tagged["fold"] = 1
    return tagged


def encode_timezone(self, value, depth, hashed):
    offset = value.utcoffset(None)
    if offset.microseconds:
        raise Refused(f"a timezone of {offset}: whole seconds can be sent")
    tagged, name = {"$py": "timezone", "seconds": int(offset.total_seconds())}, value.tzname(None)
    return tagged if name in ("UTC", datetime.timezone(offset).tzname(None)) else {**tagged, "zone": name}


def encode_complex(self, value, depth, hashed):
    value = complex(value)
    return {"$py": "complex", "real": self.encode(value.real, depth, False), "imag": self.encode(value.imag, depth, False)}


ENCODERS = [
    (enum.Enum, Encoder.enum),
    (str, lambda self, value, depth, hashed: self.text(str.__str__(value))),
    (int, lambda self, value, depth, hashed: int.__int__(value)),
    (float, lambda self, value, depth, hashed: self.encode(float.__float__(value), depth, hashed)),
    (complex, encode_complex),
    ((bytes, bytearray, memoryview), Encoder.bytes),
    (decimal.Decimal, lambda self, value, depth, hashed: {"$py": "decimal", "value": decimal.Decimal.__str__(value)}),
    (uuid.UUID, lambda self, value, depth, hashed: {"$py": "uuid", "value": uuid.UUID.__str__(value)}),
    (pathlib.PurePath, lambda self, value, depth, hashed: {"$py": "path", "value": self.text(str(value))}),
    (
        datetime.datetime,
        lambda self, value, depth, hashed: with_zone(
            {"$py": "datetime", "value": datetime.datetime.isoformat(value)}, value
        ),
    ),
    (datetime.date, lambda self, value, depth, hashed: {"$py": "date", "value": datetime.date.isoformat(value)}),
    (datetime.time, Encoder.time),
    (
        datetime.timedelta,
        lambda self, value, depth, hashed: {
            "$py": "timedelta",
            "days": value.days,
            "seconds": value.seconds,
            "microseconds": value.microseconds,
        },
    ),
    (datetime.timezone, encode_timezone),
    (tuple, Encoder.named_tuple),
    ((list, collections.deque), lambda self, value, depth, hashed: self.unhashed(value, list(value), depth, hashed)),
    ((dict, types.MappingProxyType), lambda self, value, depth, hashed: self.unhashed(value, dict(value), depth, hashed)),
    (set, lambda self, value, depth, hashed: self.unhashed(value, set(value), depth, hashed)),
    (frozenset, lambda self, value, depth, hashed: self.encode(frozenset(value), depth, hashed)),
    (BaseException, Encoder.exception),
    (type(...), lambda self, value, depth, hashed: {"$py": "ellipsis"}),
]


# --- what arrives --------------------------------------------------------------------------------


class Decoder:
    """`records` says whether an instance of a class was among what it decoded; see fit_call."""

    def __init__(self):
        self.records = False

    def decode(self, value):
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if isinstance(value, dict):
            tag = value.get("$py")
            if tag is None:
                return {key: self.decode(item) for key, item in value.items()}
            if tag not in DECODERS:
                raise TypeError(f'{{"$py": {tag!r}}} is no kind of value')
            return DECODERS[tag](self, value)
        return value

    def record(self, tagged):
        fields = self.decode(tagged["fields"])
        if tagged["type"] == "UUID" and isinstance(fields.get("hex"), str):  # before UUIDs had a tag of their own
            return uuid.UUID(fields["hex"])
        self.records = True
        return Record(tagged["type"], fields, tagged["$py"] == "namedtuple")


def decode_zone(tagged, value):
    value = value.replace(fold=tagged.get("fold", 0))
    if value.tzinfo is not None and "zone" in tagged:
        return value.replace(tzinfo=datetime.timezone(value.utcoffset(), tagged["zone"]))
    return value


def decode_timezone(self, tagged):
    offset = datetime.timedelta(seconds=tagged["seconds"])
    return datetime.timezone(offset, tagged["zone"]) if "zone" in tagged else datetime.timezone(offset)


def is_below(kind, base):
    both = isinstance(kind, type) and isinstance(base, type)
    return both and kind is not base and issubclass(kind, base) and issubclass(base, BaseException)


ERRNO = re.compile(r"\[Errno (-?\d+)\] (.*?)(?:: ('.*'|\".*\"))?", re.DOTALL)


def decode_exception(self, tagged):
    """Of the type by whose name it goes, or of its nearest base here; an OSError with the number that its text tells. Where
    the interpreter lacks the type, its text begins with the type's name."""
    message = tagged.get("message")
    names = [tagged["type"], *tagged.get("bases", ()), "Exception"]
    own, _, rest = (message or "").partition(": ")
    if is_below(getattr(builtins, own, None), getattr(builtins, names[0], None)):
        names, message = [own, *names], rest
    for name in names:
        kind = getattr(builtins, name, None)
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            continue
        told = ERRNO.fullmatch(message) if message and issubclass(kind, OSError) else None
        try:
            if told is not None:
                code, text, path = told.groups()
                whole = kind(int(code), text, *([] if path is None else [ast.literal_eval(path)]))
                if str(whole) == message:
                    return whole
            return kind() if message is None else kind(message)
        except Exception:  # a UnicodeDecodeError wants more than a text
            continue


DECODERS = {
    "tuple": lambda self, tagged: tuple(self.decode(tagged["items"])),
    "set": lambda self, tagged: set(self.decode(tagged["items"])),
    "frozenset": lambda self, tagged: frozenset(self.decode(tagged["items"])),
    "dict": lambda self, tagged: {self.decode(key): self.decode(value) for key, value in tagged["items"]},
    "bytes": lambda self, tagged: base64.b64decode(tagged["base64"]),
    "float": lambda self, tagged: float(tagged["value"]),
    "complex": lambda self, tagged: complex(self.decode(tagged["real"]), self.decode(tagged["imag"])),
    "decimal": lambda self, tagged: decimal.Decimal(tagged["value"]),
    "uuid": lambda self, tagged: uuid.UUID(tagged["value"]),
    "path": lambda self, tagged: pathlib.PurePosixPath(tagged["value"]) if os.name != "posix" else pathlib.Path(tagged["value"]),
    "date": lambda self, tagged: datetime.date.fromisoformat(tagged["value"]),
    "time": lambda self, tagged: decode_zone(tagged, datetime.time.fromisoformat(tagged["value"])),
    "datetime": lambda self, tagged: decode_zone(tagged, datetime.datetime.fromisoformat(tagged["value"])),
    "timedelta": lambda self, tagged: datetime.timedelta(tagged["days"], tagged["seconds"], tagged["microseconds"]),
    "timezone": decode_timezone,
    "namedtuple": Decoder.record,
    "object": Decoder.record,
    "exception": decode_exception,
    "ellipsis": lambda self, tagged: ...,
}


# --- exceptions ---------------------------------------------------------------------------------


def builtin_name(kind):
    return kind.__name__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"


def builtin_bases(kind):
    return [base.__name__ for base in kind.__mro__[1:] if base.__module__ == "builtins"]


def plain(text):
    """A text that JSON can carry."""
    return text.encode("utf-8", "backslashreplace").decode()


def message_of(error):
    try:
        return plain(str(error.args[0]) if isinstance(error, KeyError) and len(error.args) == 1 else str(error))
    except Exception as broken:
        return f"<its text cannot be had: {type(broken).__name__}>"


def clipped(text, most):
    """At most so many bytes: of a longer text the first and the last part, and a line that says what was cut."""
    raw = text.encode()
    if len(raw) <= most:
        return text
    half = (most - 64) // 2
    head, tail = raw[:half].decode(errors="ignore"), raw[-half:].decode(errors="ignore")
    cut = len(raw) - len(head.encode()) - len(tail.encode())
    return f"{head}\n[… {cut} bytes were cut here …]\n{tail}"
