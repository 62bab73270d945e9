"""Functions of the tests of values: random values of every kind, and classes that go there and back."""

import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import random
import socket
import types
import typing
import uuid

import durable


@dataclasses.dataclass
class Row:
    n: int

    def twice(self):
        return 2 * self.n


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: object = None


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Pair(typing.NamedTuple):
    left: Row
    right: typing.Optional[Color] = None


class Plain:
    def __init__(self, secret):
        self.name = secret.upper()

    def __eq__(self, other):
        return type(other) is Plain and vars(self) == vars(other)


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


@dataclasses.dataclass
class Order:
    rows: "list[Row]"
    by_id: "dict[uuid.UUID, Row]"
    color: Color
    pair: "Pair | None" = None
    total: int = dataclasses.field(init=False, default=0)

    def __post_init__(self):
        self.total += len(self.rows)


class Wanted(typing.TypedDict):
    row: Row
    ids: typing.List[uuid.UUID]


ID = uuid.UUID(int=7)


def order():
    return Order([Row(1), Row(2)], {ID: Row(3)}, Color.RED, Pair(Row(4), Color.BLUE))


def check(value, wanted):
    assert type(value) is type(wanted) and value == wanted, f"{value!r} is not {wanted!r}"
    return True


# Each gives something, takes it back, and says whether it is what it gave.


def give(what):
    return {
        "row": Row(1), "point": Point(1, (2,)), "color": Color.RED, "level": Level.LOW, "pair": Pair(Row(1), Color.RED),
        "plain": Plain("x"), "order": order(), "rows": [Row(1), Row(2)], "by": {"a": Row(1)}, "none": None,
        "keys": {ID: Row(1), Point(1): 2, Color.RED: 3}, "set": {Point(1), Point(2)}, "id": ID,
    }[what]  # fmt: skip


def untyped(what, value):
    return check(value, give(what))


def takes_row(row: Row):
    return row.twice() if isinstance(row, Row) else f"{row!r}"


def takes_order(order: "Order"):
    return [order.total, order.rows[0].twice(), order.by_id[ID].n, order.color.name, order.pair.left.twice()]


def takes_rows(rows: typing.List[Row], *more: Row, by: typing.Optional[typing.Dict[str, Row]] = None, **named: Row):
    return [row.twice() for row in [*rows, *more, *(by or {}).values(), *named.values()]]


def takes_either(value: typing.Union[Row, Color, None, str]):
    return type(value).__name__


def takes_level(level: Level):
    return level is Level.LOW


def takes_color(color: Color):
    return color is Color.RED


def takes_texts(
    id: uuid.UUID, price: decimal.Decimal, at: datetime.datetime, where: pathlib.Path, ids: typing.Set[uuid.UUID]
):
    return [type(value).__name__ for value in (id, price, at, where, ids, *ids)]


def takes_wanted(wanted: Wanted):
    return [wanted["row"].twice(), wanted["ids"] == [ID]]


def takes_int(n: int):
    return type(n).__name__


# --- what is refused ------------------------------------------------------------------------------


@durable.function(retries=0)
def refused(what):
    return {
        "socket": {"rows": [1, 2, 3, {"n": socket.socket()}]},
        "key": {"a": {Unlike(): 1}},
        "attribute": Row([open("/dev/null")]),
        "deep": deep(),
        "circular": circular(),
        "metre": {Metre(1): 1, Foot(1): 2},
        "name": {"caf\udce9": 1},
        "field": types.SimpleNamespace(**{"a\udce9": 1}),
    }[what]


class Unlike:
    pass


@dataclasses.dataclass(frozen=True)
class Metre:
    x: int


@dataclasses.dataclass(frozen=True)
class Foot:
    x: int


def deep():
    value = 1
    for _ in range(200):
        value = [value]
    return value


def circular():
    value = []
    value.append(value)
    return value


# --- exceptions ------------------------------------------------------------------------------------


@durable.function(retries=0)
def missing_file():
    open("/no/such/file")


@durable.function(retries=0)
def shouts(megabytes):
    raise ValueError("begin" + "x" * (megabytes << 20) + "end")


def errors():
    return [ConnectionResetError(104, "reset"), FileNotFoundError(2, "No such file or directory"), KeyError("k"), ValueError()]


def told(errors):
    return [[type(error).__name__, getattr(error, "errno", None), str(error)] for error in errors]


# --- random values -----------------------------------------------------------------------------------


def leaf(rng):
    zone = datetime.timezone(datetime.timedelta(seconds=rng.randrange(-86399, 86399)), rng.choice(["X", "Europe/Berlin"]))
    at = datetime.datetime(rng.randrange(2, 9998), rng.randrange(1, 13), 25, 2, 30, 1, rng.randrange(10**6))
    return rng.choice([
        None, True, False, rng.randrange(-9, 9), rng.randrange(-(10**40), 10**40), rng.random(), -0.0, float("inf"),
        "text \u0000 \U0001f600"[: rng.randrange(9)], rng.randbytes(rng.randrange(9)), complex(rng.random(), -0.0),
        decimal.Decimal(rng.randrange(10**30)).scaleb(rng.randrange(-99, 99)), decimal.Decimal("NaN12"), uuid.UUID(int=rng.getrandbits(128)),
        pathlib.Path("/a/b"), at, at.replace(tzinfo=zone), at.replace(fold=1), at.date(), at.timetz().replace(fold=1, tzinfo=zone),
        datetime.timedelta(rng.randrange(-99, 99), rng.randrange(99), 5), zone, datetime.timezone.utc, ..., Color.RED, Color.BLUE,
    ])  # fmt: skip


def hashable(rng, depth):
    if depth == 0 or rng.random() < 0.5:
        return leaf(rng)
    kind = rng.choice([tuple, frozenset, Point, Pair._make])
    parts = [hashable(rng, depth - 1) for _ in range(2)]
    return Point(*parts) if kind is Point else Pair(*parts) if kind == Pair._make else kind(parts)


def value(rng, depth):
    if depth == 0 or rng.random() < 0.2:
        return leaf(rng)
    many = range(rng.randrange(4))
    return rng.choice([
        lambda: [value(rng, depth - 1) for _ in many],
        lambda: tuple(value(rng, depth - 1) for _ in many),
        lambda: {f"k{at}": value(rng, depth - 1) for at in many},
        lambda: {hashable(rng, 2): value(rng, depth - 1) for _ in many},
        lambda: {hashable(rng, 2) for _ in many},
        lambda: frozenset(hashable(rng, 2) for _ in many),
        lambda: Row(value(rng, depth - 1)),
        lambda: Point(value(rng, depth - 1)),
        lambda: Pair(value(rng, depth - 1)),
        lambda: {"$py": value(rng, depth - 1)},
    ])()  # fmt: skip


def make(seed):
    return value(random.Random(seed), 4)


def text_of(thing):
    """Types and contents, where equality says too little: 1 and True, -0.0, fold; sets have no order."""
    kind = type(thing).__name__
    if isinstance(thing, (set, frozenset)):
        return f"{kind}{sorted(map(text_of, thing))}"
    if isinstance(thing, dict):
        return f"{kind}{[(text_of(key), text_of(item)) for key, item in thing.items()]}"
    if isinstance(thing, Pair) or isinstance(thing, (Row, Point)):
        fields = thing if isinstance(thing, Pair) else vars(thing).values()
        return f"{kind}{[text_of(item) for item in fields]}"
    if isinstance(thing, (list, tuple)):
        return f"{kind}{[text_of(item) for item in thing]}"
    return f"{kind}:{thing!r}:{getattr(thing, 'fold', 0)}"


def same(seed, came):
    wanted, got = text_of(make(seed)), text_of(came)
    return None if wanted == got else f"{seed}: {got}\n instead of {wanted}"
