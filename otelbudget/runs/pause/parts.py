"""`Part`: a mapping inside an exported state, read field by field; what can't be read says which field is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NoReturn

from otelbudget.errors import ConfigError
from otelbudget.model.amounts import UNLIMITED, Amounts

__all__ = ["Part"]

_FIELDS: Final = Amounts._fields


class Part:
    """A mapping inside a state, read field by field.

    Args:
        data: What should be a mapping.
        path: Where it is, for messages.

    Raises:
        ConfigError: From every method, naming the field.
    """

    def __init__(self, data: object, path: str) -> None:
        if not isinstance(data, Mapping):
            hint = "; read it with json.loads() first" if isinstance(data, str | bytes) else ""
            raise ConfigError(f"{path} must be a mapping, got {_short(data)}{hint}")
        self.data: Mapping[str, Any] = data
        self.path = path

    def refuse(self, name: str, wanted: str) -> NoReturn:
        """Say that a field is not what it has to be."""
        got = _short(self.data[name]) if name in self.data else "nothing"
        raise ConfigError(f"{self.path}.{name} must be {wanted}, got {got}")

    def get(self, name: str) -> Any:
        """The field *name*, which has to be there."""
        if name not in self.data:
            self.refuse(name, "given")
        return self.data[name]

    def text(self, name: str) -> str:
        """A text that is not empty."""
        value = self.get(name)
        if not isinstance(value, str) or not value:
            self.refuse(name, "a text that is not empty")
        return value

    def optional_text(self, name: str) -> str | None:
        """A text, or None."""
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            self.refuse(name, "a text or null")
        return value

    def choice(self, name: str, *known: str) -> str:
        """One of *known*."""
        value = self.get(name)
        if value not in known:
            self.refuse(name, f"one of {', '.join(known)}")
        return str(value)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.get(name)
        if not isinstance(value, bool):
            self.refuse(name, "true or false")
        return value

    def number(self, name: str) -> int:
        """A whole number of at least 0, of any size: sums have no bound."""
        value = self.get(name)
        if type(value) is not int or value < 0:
            self.refuse(name, "a whole number of at least 0")
        return value

    def value(self, name: str) -> int | float | Decimal | None:
        """A finite number, money as text, or None."""
        value = self.get(name)
        if isinstance(value, str):
            return self.decimal(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0):
            self.refuse(name, "a finite number or null")
        return value

    def decimal(self, name: str) -> Decimal:
        """A decimal number, written as text."""
        try:
            found = Decimal(self.text(name))
        except InvalidOperation:
            self.refuse(name, "a decimal number as text")
        if not found.is_finite():
            self.refuse(name, "a finite decimal number as text")
        return found

    def part(self, name: str) -> Part:
        """A mapping."""
        return Part(self.get(name), f"{self.path}.{name}")

    def optional_part(self, name: str) -> Part | None:
        """A mapping, or None."""
        return None if self.get(name) is None else self.part(name)

    def parts(self, name: str) -> Iterator[Part]:
        """The mappings of a list."""
        for i, one in enumerate(self._list(name)):
            yield Part(one, f"{self.path}.{name}[{i}]")

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        found = self._list(name)
        if not all(isinstance(one, str) for one in found):
            self.refuse(name, "a list of texts")
        return list(found)

    def _list(self, name: str) -> Sequence[Any]:
        value = self.get(name)
        if not isinstance(value, list | tuple):
            self.refuse(name, "a list")
        return value

    def amounts(self, name: str) -> Amounts:
        """Internal amounts of every resource."""
        part = self.part(name)
        return Amounts(*map(part.number, _FIELDS))

    def limits(self, name: str) -> tuple[int, ...]:
        """Internal limits of every resource; None is UNLIMITED."""
        part = self.part(name)
        return tuple(UNLIMITED if part.get(one) is None else min(part.number(one), UNLIMITED - 1) for one in _FIELDS)

    def made(self, make: Callable[[], Any]) -> Any:
        """What *make* gives; its error with where that is."""
        try:
            return make()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{self.path}: {error}") from error


def _short(value: object) -> str:
    said = repr(value)
    return f"{said if len(said) <= 60 else said[:57] + '...'} ({type(value).__name__})"
