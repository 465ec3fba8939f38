"""What a value of a ``budgets.yaml`` may be. Each kind reads a value, and says the same as a JSON Schema.

A new kind is a class here with `read` and `schema`; whatever it reads must be valid, which the tests compare.
"""

# ruff: noqa: D102  what `read` and `schema` do is said once, in `Kind`

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from otelbudget.errors import ConfigError
from otelbudget.model.names import is_pattern

if TYPE_CHECKING:
    from yaml.nodes import Node

    from otelbudget.config.reader import Path, Reader

#: A JSON Schema, or a part of one.
Schema = dict[str, Any]

#: What a kind gives for a value that is wrong; the reader has noted why.
INVALID: Final[Any] = object()


class Kind(Protocol):
    """What a value must be."""

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        """The value of *node*, or INVALID after noting what is wrong."""

    def schema(self) -> Schema:
        """The same for editors."""


class Field(NamedTuple):
    """A setting: what it must be, and what it is for, in words for editors."""

    kind: Kind
    about: str

    def schema(self) -> Schema:
        """The schema of its kind with a description."""
        return self.kind.schema() | {"description": self.about}


@dataclass(frozen=True, slots=True)
class Form:
    """A text that *parse* understands, which is called *wanted* in messages; or null for no limit, if *nullable*."""

    wanted: str
    #: Text -> value; ValueError with a hint, or without one, if it is none.
    parse: Callable[[str], Any]
    as_schema: Schema
    nullable: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        text = reader.text(node, path, self.wanted)
        if text is None:
            return INVALID
        null = reader.is_null(node)
        if null and self.nullable and text:
            return None
        try:
            return self.parse("" if null else text)
        except ValueError as error:
            or_null = ", or null for no limit" if self.nullable else ""
            said = f"must be {self.wanted}{or_null}, got {reader.describe(node)}; {error}"
            reader.wrong(node, path, said.removesuffix("; "))
            return INVALID

    def schema(self) -> Schema:
        return self.as_schema | ({"type": [*self.as_schema["type"], "null"]} if self.nullable else {})


@dataclass(frozen=True, slots=True)
class TextOr:
    """Something *whole*, or a text in its place, the name of a budget if it *refers* to one; or nothing at all."""

    text: Form
    whole: Kind
    refers: bool = False
    may_be_empty: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        if self.may_be_empty and reader.is_null(node):
            return None
        if not reader.is_scalar(node):
            return self.whole.read(reader, node, path)
        value = self.text.read(reader, node, path)
        if self.refers and value is not INVALID and value not in reader.budgets:
            said = f"{reader.describe(node)} is not the name of a budget"
            reader.unknown(node, path, said, value, reader.budgets)
            return INVALID
        return value

    def schema(self) -> Schema:
        null = [{"type": "null"}] if self.may_be_empty else []
        return {"anyOf": [self.text.schema(), *null, self.whole.schema()]}


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of *what*, such as *example*."""

    item: Kind
    what: str
    example: str

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        items = reader.sequence(node, path, f"a list of {self.what}, such as {self.example}")
        values = [self.item.read(reader, item, (*path, str(i))) for i, item in enumerate(items or ())]
        return INVALID if items is None or INVALID in values else tuple(values)

    def schema(self) -> Schema:
        return {"type": "array", "items": self.item.schema()}


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping of known names, from which *build* makes a value. It is read in the order of its fields."""

    fields: Mapping[str, Field]
    build: Callable[..., Any]
    #: Its name among the schema's definitions, if it is used in several places.
    called: str | None = None
    required: tuple[str, ...] = ()
    #: Nothing at all is what *build* makes of nothing.
    may_be_empty: bool = False
    #: Whether *build* is told the place, ``file:line``, as ``origin``.
    located: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        if self.may_be_empty and reader.is_null(node):
            return self.build()
        entries = reader.mapping(node, path)
        if entries is None:
            return INVALID
        values = {
            name: field.kind.read(reader, entries[name][1], (*path, name))
            for name, field in self.fields.items()
            if name in entries
        }
        for name, (key, _) in entries.items():
            if name not in self.fields:
                reader.unknown(key, (*path, name), "unknown setting", name, self.fields)
        missing = [name for name in self.required if name not in entries]
        for name in missing:
            reader.wrong(node, path, f"{name} is missing")
        if missing or len(values) < len(entries) or INVALID in values.values():
            return INVALID
        return self._built(reader, node, path, values)

    def _built(self, reader: Reader, node: Node, path: Path, values: dict[str, Any]) -> Any:
        if self.located:
            values["origin"] = reader.origin(path)
        try:
            return self.build(**values)
        except ConfigError as error:
            reader.refused(node, path, str(error))
            return INVALID

    def schema(self) -> Schema:
        return self.whole() if self.called is None else {"$ref": f"#/definitions/{self.called}"}

    def whole(self) -> Schema:
        """The schema itself, where `schema` may only name it."""
        return {
            "type": ["object", "null"] if self.may_be_empty else "object",
            "properties": {name: field.schema() for name, field in self.fields.items()},
            "additionalProperties": False,
            "required": list(self.required),
        }


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping of free names, patterns unless *exact*, to values of one kind; nothing at all is an empty one."""

    item: Kind
    exact: bool = False
    #: Whether the rest of the file may refer to these names, right or wrong.
    referred: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        entries = {} if reader.is_null(node) else reader.mapping(node, path)
        if entries is None:
            return INVALID
        if self.referred:
            reader.budgets = entries
        values: dict[str, Any] = {}
        for name, (key, value) in entries.items():
            values[name] = self.item.read(reader, value, (*path, name))
            if self.exact and is_pattern(name):
                reader.wrong(key, (*path, name), "patterns are not understood here; name each one")
                values[name] = INVALID
        return INVALID if INVALID in values.values() else values

    def schema(self) -> Schema:
        return {"type": ["object", "null"], "additionalProperties": self.item.schema()}
