"""Frozen dataclasses to JSON and back, driven by their type annotations; no pickle, no class names in the file.

Numbers that JSON lacks are written as the strings "NaN", "Infinity" and "-Infinity", so that the files are valid
JSON for every reader.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode(thing: Any) -> Any:
    """JSON-serialisable data for a tree of dataclasses, enums, tuples, mappings, numbers and strings.

    >>> encode((1.5, float("nan"), {"a": float("-inf")}))
    [1.5, 'NaN', {'a': '-Infinity'}]

    Raises TypeError naming the type that cannot be written.
    """
    if thing is None or (isinstance(thing, (str, bool, int)) and not isinstance(thing, enum.Enum)):
        return thing
    if isinstance(thing, float):
        number = float(thing)
        if math.isfinite(number):
            return number
        return "NaN" if math.isnan(number) else ("Infinity" if number > 0 else "-Infinity")
    if isinstance(thing, enum.Enum):
        return thing.name
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return {field.name: encode(getattr(thing, field.name)) for field in dataclasses.fields(thing)}
    if isinstance(thing, Mapping):
        return {str(key): encode(entry) for key, entry in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [encode(entry) for entry in thing]
    # numpy and torch scalars and arrays know how to become plain Python
    to_list = getattr(thing, "tolist", None)
    if to_list is not None:
        return encode(to_list())
    raise TypeError(
        f"a diagnosis must hold plain data, got {type(thing).__name__}: convert it to numbers or strings."
    )


@functools.cache
def _fields(cls: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def decode(kind: Any, data: Any, where: str = "") -> Any:
    """The value of type `kind` that `encode` wrote as `data`; unknown fields of a newer writer are ignored.

    Raises ValueError naming the place that does not fit.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or origin is typing.Literal:
        return _plain(data)
    if origin in (types.UnionType, typing.Union):
        if data is None and type(None) in arguments:
            return None
        return decode(next(one for one in arguments if one is not type(None)), data, where)
    if kind is float:
        return _float(data, where)
    if kind in (int, str, bool):
        if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
            raise ValueError(f"{where or 'the value'} must be {kind.__name__}, got {data!r}.")
        return data
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind[data]
        except KeyError:
            known = ", ".join(kind.__members__)
            raise ValueError(f"{where or 'the value'} must be one of {known}, got {data!r}.") from None
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(data, dict):
            raise ValueError(f"{where or 'the value'} must be an object, got {type(data).__name__}.")
        return kind(
            **{
                name: decode(hint, data[name], f"{where}.{name}")
                for name, hint in _fields(kind).items()
                if name in data
            }
        )
    return _container(origin, arguments, data, where)


def _container(origin: Any, arguments: tuple[Any, ...], data: Any, where: str) -> Any:
    if origin is tuple:
        if not isinstance(data, list):
            raise ValueError(f"{where or 'the value'} must be a list, got {type(data).__name__}.")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(decode(arguments[0], entry, f"{where}[{i}]") for i, entry in enumerate(data))
        return tuple(
            decode(kind, entry, f"{where}[{i}]") for i, (kind, entry) in enumerate(zip(arguments, data, strict=True))
        )
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if not isinstance(data, dict):
            raise ValueError(f"{where or 'the value'} must be an object, got {type(data).__name__}.")
        return {key: decode(arguments[1], entry, f"{where}.{key}") for key, entry in data.items()}
    raise ValueError(f"{where or 'the value'} has a type that is not part of the schema: {origin}.")


def _float(data: Any, where: str) -> float:
    if isinstance(data, str) and data in _NOT_FINITE:
        return _NOT_FINITE[data]
    if isinstance(data, bool) or not isinstance(data, (int, float)):
        raise ValueError(f"{where or 'the value'} must be a number, got {data!r}.")
    return float(data)


def _plain(data: Any) -> Any:
    """Untyped data (facts, witnesses): lists stay lists, the three strings become numbers again."""
    if isinstance(data, str):
        return _NOT_FINITE.get(data, data)
    if isinstance(data, list):
        return [_plain(entry) for entry in data]
    if isinstance(data, dict):
        return {key: _plain(entry) for key, entry in data.items()}
    return data
