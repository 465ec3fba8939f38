"""What values share: a repr without what is as by default, pickling, and help for a misspelt keyword."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import partial, wraps
from inspect import signature
from types import MappingProxyType
from typing import Any, TypeVar, cast

from otelbudget.model.keywords import unknown

F = TypeVar("F", bound=Callable[..., Any])


def spelled(function: F) -> F:
    """*function*, or the constructor of a class, which says of a misspelt keyword what it was meant to be."""
    cls = function if isinstance(function, type) else None
    made: Any = function if cls is None else cls.__init__  # type: ignore[misc]
    known = [name for name in signature(made).parameters if name != "self"]
    names = frozenset(known)

    @wraps(made)
    def wrapper(*args: Any, **given: Any) -> Any:
        if not given.keys() <= names:
            raise unknown(f"{function.__name__}() has no", next(name for name in given if name not in names), known)
        return made(*args, **given)

    if cls is None:
        return cast("F", wrapper)
    type.__setattr__(cls, "__init__", wrapper)
    return function


class Shown:
    """What dataclasses are whose repr says what of them is not as by default."""

    __slots__ = ()

    def __repr__(self) -> str:
        value: Any = self
        given = ((one.name, getattr(value, one.name)) for one in fields(value) if one.init and one.repr)
        plain = {one.name: {} if one.default is MISSING else one.default for one in fields(value)}
        shown = ", ".join(f"{name}={_plain(it)!r}" for name, it in given if it != plain[name])
        return f"{type(value).__name__}({shown})"


class Value(Shown):
    """And that hold read-only mappings, which do not pickle, and so are made anew."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        value: Any = self
        given = {one.name: _plain(getattr(value, one.name)) for one in fields(value) if one.init}
        return partial(value.__class__, **given), ()


def _plain(value: Any) -> Any:
    return {name: _plain(inner) for name, inner in value.items()} if isinstance(value, MappingProxyType) else value
