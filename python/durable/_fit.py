"""Makes of an argument what its parameter's annotation says.

Values travel by value. An instance of a class arrives as a record of its fields, and a class that the annotation names is made
of it; so is one of a dict, where a dataclass, a pydantic model or a typed dict is wanted, and a UUID, a Decimal, a path, an
instant or a member of an Enum of the text or number that stands for it. What fits nothing is passed as it came. The workers'
Python host has this text too.
"""

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import inspect
import pathlib
import sys
import types
import typing
import uuid


class Misfit(TypeError):
    """An argument that cannot be what its parameter wants."""


class Record:
    """An instance that came by value: the name of its class, and its fields."""

    def __init__(self, name, fields, frozen):
        self.name, self.fields, self.frozen = name, fields, frozen


class Received:
    """What stands for an instance whose class is not known here: its attributes, under its class's name."""

    def __repr__(self):
        inside = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({inside})"

    def __eq__(self, other):
        return type(self).__name__ == type(other).__name__ and vars(self) == vars(other)

    __hash__ = None


def fit_call(name, fn, args, kwargs, records=False):
    """The arguments of a call as the function's annotations want them; whether there may be records among them."""
    hints, scope = hints_of(fn), scope_of(fn)
    if not records and all(inert(hint) for hint in hints.values()):
        return args, kwargs
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some functions of C have none
        signature = None
    if signature is None:
        args = [fit(arg, None, scope, f"{name}() argument {place}") for place, arg in enumerate(args, 1)]
        return args, {key: fit(arg, None, scope, f"{name}() argument {key}") for key, arg in kwargs.items()}
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise Misfit(f"{name}() {error}") from None
    for key, arg in bound.arguments.items():
        kind, hint, where = signature.parameters[key].kind, hints.get(key), f"{name}() argument {key}"
        if kind is inspect.Parameter.VAR_POSITIONAL:
            arg = tuple(fit(one, hint, scope, f"{where}[{place}]") for place, one in enumerate(arg))
        elif kind is inspect.Parameter.VAR_KEYWORD:
            arg = {one: fit(value, hint, scope, f"{name}() argument {one}") for one, value in arg.items()}
        else:
            arg = fit(arg, hint, scope, where)
        bound.arguments[key] = arg
    return list(bound.args), bound.kwargs


# --- annotations ------------------------------------------------------------------------------------


def hints_of(thing):
    """The annotations of a function or class, without those that cannot be read."""
    try:
        return _hints(thing)
    except TypeError:  # not hashable
        return _hints.__wrapped__(thing)


@functools.lru_cache(maxsize=1024)
def _hints(thing):
    bare = thing if isinstance(thing, type) else inspect.unwrap(thing)
    bare = bare.func if isinstance(bare, functools.partial) else bare
    try:
        return typing.get_type_hints(bare, include_extras=True)
    except Exception:
        pass
    # One name that is imported for type checkers alone must not cost the others.
    hints = {}
    names = {**vars(sys.modules.get(getattr(bare, "__module__", None), types)), "typing": typing}
    for name, hint in (getattr(bare, "__annotations__", None) or {}).items():
        try:
            hints[name] = eval(hint, dict(names)) if isinstance(hint, str) else hint
        except Exception:
            continue
    return hints


def scope_of(thing):
    """Where classes are looked for by the names of records."""
    bare = thing if isinstance(thing, type) else inspect.unwrap(thing)
    module = sys.modules.get(getattr(bare, "__module__", None))
    return [vars(module)] if module is not None else []


def bare_hint(hint):
    """A hint without what says nothing of the type."""
    while True:
        if hasattr(hint, "__supertype__"):  # NewType
            hint = hint.__supertype__
        elif hasattr(hint, "__value__") and not isinstance(hint, type):  # type X = …
            hint = hint.__value__
        elif hasattr(hint, "__metadata__") or typing.get_origin(hint) in _WRAPPERS:
            hint = typing.get_args(hint)[0]
        else:
            return hint


_WRAPPERS = {getattr(typing, name, None) for name in ("Final", "ClassVar", "Required", "NotRequired", "ReadOnly")} - {None}
_UNIONS = {typing.Union, getattr(types, "UnionType", typing.Union)}
_PLAIN = {int, str, float, bool, bytes, complex, type(None), object, list, dict, None, typing.Any, inspect.Parameter.empty}


def inert(hint):
    """Whether nothing is to be made for this hint."""
    hint = bare_hint(hint)
    try:
        if hint in _PLAIN:
            return True
    except TypeError:
        return False
    origin = typing.get_origin(hint)
    if origin is typing.Literal or isinstance(hint, typing.TypeVar):
        return True
    return origin in {list, dict} | _UNIONS and all(inert(arg) for arg in typing.get_args(hint))


# --- values -----------------------------------------------------------------------------------------


def fit(value, hint, scope, where):
    """What is to be passed for `value`, where `hint` is wanted."""
    hint = bare_hint(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        return fit_union(value, args, scope, where)
    kind = origin if isinstance(origin, type) else hint
    if not isinstance(kind, type) or kind is object or origin is typing.Literal:
        return fit_unknown(value, scope, where)
    if isinstance(value, Record):
        return fit_record(value, kind, scope, where)
    if type(value) is dict:
        return fit_dict(value, kind, args, scope, where)
    if type(value) in (list, tuple, set, frozenset):
        return fit_items(value, kind, args, scope, where)
    if isinstance(value, kind):
        return value
    return fit_scalar(value, kind)


def fit_unknown(value, scope, where):
    """Without an annotation, the name of a record's class decides, if the function's module has it."""
    if isinstance(value, Record):
        kind = class_called(value.name, scope)
        if kind is not None:
            try:
                return build(kind, value, scope, where)
            except Misfit:
                pass
        return look_alike(value, scope, where)
    if type(value) is list:
        return [fit_unknown(item, scope, where) for item in value]
    if type(value) in (tuple, set, frozenset):
        return hashed(type(value), (fit_unknown(item, scope, where) for item in value), where)
    if type(value) is dict:
        pairs = ((fit_unknown(key, scope, where), fit_unknown(item, scope, where)) for key, item in value.items())
        return hashed(dict, pairs, where)
    return value


def hashed(kind, items, where):
    try:
        return kind(items)
    except Misfit:
        raise
    except TypeError as error:
        raise Misfit(f"{where}: {error}") from None


def fit_union(value, hints, scope, where):
    if value is None and type(None) in hints:
        return None
    hints = [bare_hint(hint) for hint in hints if hint is not type(None)]
    kinds = [typing.get_origin(hint) or hint for hint in hints]
    same = [hint for hint, kind in zip(hints, kinds) if type(value) is kind]
    if isinstance(value, Record):
        same = [hint for hint, kind in zip(hints, kinds) if isinstance(kind, type) and subclass_called(value.name, kind)]
    failure = None
    for hint in same or hints:
        try:
            made = fit(value, hint, scope, where)
        except Misfit as error:
            failure = failure or error
            continue
        if same or is_a(made, hint):
            return made
    if failure is not None:
        raise failure
    return fit_unknown(value, scope, where)


def is_a(value, hint):
    kind = typing.get_origin(hint) or hint
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol, a typed dict
        return isinstance(value, dict) and is_typed_dict(kind)


def fit_items(items, kind, args, scope, where):
    """A list, tuple or set, for a hint that wants some collection."""
    made = type(items)
    if kind in (tuple, set, frozenset, collections.deque) and made is not kind and made is list:
        made = kind  # JSON has lists alone
    if kind is tuple and args and args[-1] is not Ellipsis:
        hints = list(args) + [None] * max(0, len(items) - len(args))
    elif kind in _COLLECTIONS or issubclass(kind, (list, tuple, set, frozenset, collections.deque)):
        hints = [args[0] if args else None] * len(items)
    else:
        hints = [None] * len(items)
    return hashed(made, [fit(item, hint, scope, f"{where}[{place}]") for place, (item, hint) in enumerate(zip(items, hints))], where)


_COLLECTIONS = {
    getattr(collections.abc, name) for name in ("Iterable", "Collection", "Sequence", "MutableSequence", "Set", "MutableSet")
}
_MAPPINGS = {dict, collections.OrderedDict, collections.Counter, collections.defaultdict, collections.abc.Mapping}
_MAPPINGS |= {collections.abc.MutableMapping}


def fit_dict(value, kind, args, scope, where):
    if is_typed_dict(kind):
        hints = hints_of(kind)
        return {key: fit(item, hints.get(key), scope, below(where, key)) for key, item in value.items()}
    if kind in _MAPPINGS:
        wanted, hint = (args + (None, None))[:2] if kind is not collections.Counter else (args + (None,))[0:1] + (int,)
        pairs = ((fit(key, wanted, scope, below(where, key)), fit(item, hint, scope, below(where, key))) for key, item in value.items())
        return hashed(kind if kind in (collections.OrderedDict, collections.Counter) else dict, pairs, where)
    if all(type(key) is str for key in value) and (dataclasses.is_dataclass(kind) or is_model(kind)):
        return build(kind, value, scope, where)
    return fit_unknown(value, scope, where)


def below(where, key):
    return f'{where}["{key}"]' if type(key) is str else f"{where}[{key!r}]"


def fit_record(record, kind, scope, where):
    if is_typed_dict(kind):
        return fit_unknown(record, scope, where)
    known = subclass_called(record.name, kind)
    if known is None and class_called(record.name, scope) is None and is_made_of_fields(kind):
        known = kind
    return fit_unknown(record, scope, where) if known is None else build(known, record, scope, where)


def fit_scalar(value, kind):
    """What a text or number stands for; itself, if it stands for nothing of that kind."""
    if isinstance(value, bool) and not issubclass(kind, enum.Enum):
        return value
    try:
        if issubclass(kind, enum.Enum):
            return kind(value)
        if kind is decimal.Decimal and type(value) in (str, int, float):
            return decimal.Decimal(str(value))
        if kind is bytearray and type(value) is bytes:
            return bytearray(value)
        if type(value) is str:
            if kind in (datetime.datetime, datetime.date, datetime.time):
                return kind.fromisoformat(value[:-1] + "+00:00" if value.endswith("Z") else value)
            if kind is uuid.UUID or issubclass(kind, pathlib.PurePath):
                return kind(value)
    except (ValueError, ArithmeticError):
        pass
    return value


# --- classes ----------------------------------------------------------------------------------------


def is_model(kind):
    """Whether it is a pydantic model."""
    return hasattr(kind, "model_validate") or (hasattr(kind, "parse_obj") and hasattr(kind, "__fields__"))


def is_typed_dict(kind):
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__total__")


def is_made_of_fields(kind):
    return dataclasses.is_dataclass(kind) or is_model(kind) or hasattr(kind, "_fields") or hasattr(kind, "__attrs_attrs__")


def class_called(name, scope):
    for names in scope:
        kind = names.get(name)
        if isinstance(kind, type) and kind.__name__ == name and kind.__module__ != "builtins":
            return kind
    return None


def subclass_called(name, kind):
    """The class of that name, if it is this one or inherits from it."""
    todo, seen = [kind], set()
    while todo:
        kind = todo.pop()
        if kind.__name__ == name and kind.__module__ != "builtins":
            return kind
        seen.add(kind)
        if kind is not object and type(kind).__subclasses__ is type.__subclasses__:
            todo += [each for each in kind.__subclasses__() if each not in seen]
    return None


def look_alike(record, scope, where):
    fields = {name: fit_unknown(value, scope, where) for name, value in record.fields.items()}
    if record.frozen:
        return collections.namedtuple(record.name, list(fields), rename=True)(*fields.values())
    value = type(record.name, (Received,), {})()
    vars(value).update(fields)
    return value


def build(kind, source, scope, where):
    """An instance of `kind` from a record, or from a dict that was meant for one."""
    record = isinstance(source, Record)
    hints, scope = hints_of(kind), scope_of(kind) + scope
    fields = {}
    for name, value in (source.fields if record else source).items():
        fields[name] = fit(value, hints.get(name), scope, f"{where}.{name}" if record else below(where, name))
    try:
        return made_of_record(kind, fields) if record else made_of_dict(kind, fields)
    except Exception as error:
        raise Misfit(f"{where} cannot be made a {kind.__name__}: {error}") from None


def made_of_dict(kind, fields):
    if is_model(kind) and not dataclasses.is_dataclass(kind):
        return getattr(kind, "model_validate", None)(fields) if hasattr(kind, "model_validate") else kind.parse_obj(fields)
    return kind(**fields)


def made_of_record(kind, fields):
    if issubclass(kind, enum.Enum):
        try:
            return kind(fields["value"])
        except ValueError:
            return kind[fields["name"]]
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return kind(**fields)
    if dataclasses.is_dataclass(kind):
        return dataclass_of(kind, fields)
    if is_model(kind):
        return made_of_dict(kind, by_alias(kind, fields))
    made = object.__new__(kind)
    set_all(made, fields)
    return made


def dataclass_of(kind, fields):
    """Made as any other, then given the very fields that it had: what `__post_init__` makes of them was made before."""
    declared = dataclasses.fields(kind)
    unknown = set(fields) - {field.name for field in declared}
    if unknown:
        raise TypeError(f"it has no field {sorted(unknown)[0]}")
    try:
        made = kind(**{field.name: fields[field.name] for field in declared if field.init and field.name in fields})
    except TypeError:
        if len(fields) < len(declared):
            raise
        made = object.__new__(kind)  # what was given to its making alone (InitVar) did not travel
    set_all(made, fields)
    return made


def set_all(made, fields):
    for name, value in fields.items():
        object.__setattr__(made, name, value)


def by_alias(kind, fields):
    """The fields of a model under the names by which it is validated."""
    known = getattr(kind, "model_fields", None) or getattr(kind, "__fields__", {})
    named = {}
    for name, value in fields.items():
        alias = getattr(known.get(name), "validation_alias", None) or getattr(known.get(name), "alias", None)
        alias = next(iter(alias.choices), None) if hasattr(alias, "choices") else alias
        named[alias if isinstance(alias, str) else name] = value
    return named
