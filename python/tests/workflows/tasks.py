"""What the workflows of the differential suite call; the engine's side of the suite answers the same."""


import dataclasses
import typing
import uuid


@dataclasses.dataclass
class Row:
    n: int


def echo(value):
    return value


def add(a, b):
    return a + b


def double(value):
    return 2 * value


def fail(message):
    raise ValueError(message)


def missing(key):
    raise KeyError(key)


def words(text):
    return text.split()


def options(a, *, b=2):
    return [a, b]


def by_id():
    return {uuid.UUID(int=1): 1, uuid.UUID(int=2): 2}


def total(rows: typing.List[Row], first: typing.Optional[Row] = None):
    return sum(row.n for row in rows) + (first.n if first else 0)
