"""What a value of a ``budgets.yaml`` may be. Each kind reads a value, and says the same as a JSON Schema.

A new kind is a class here with `read` and `schema`; both must take the same values, which the tests compare.
"""

# ruff: noqa: D102  what `read` and `schema` do is said once, in `Kind`

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from otelbudget.config.forms import EXACT_NAMES, NAMES, VARIABLE, Form
from otelbudget.config.settings import close_to, did_you_mean
from otelbudget.errors import ConfigError
from otelbudget.model.names import is_pattern

if TYPE_CHECKING:
    from yaml.nodes import Node

    from otelbudget.config.reader import Entry, Path, Reader

__all__ = ["INVALID", "BudgetOrName", "Choice", "Field", "Kind", "ListOf", "Named", "Scalar", "Section", "described"]

#: What a kind gives for a value that is wrong; the reader has noted why.
INVALID: Final[Any] = object()

#: A JSON Schema, or a part of one.
Schema = dict[str, Any]


class Kind(Protocol):
    """What a value must be."""

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        """The value of *node*, or INVALID after noting what is wrong."""

    def schema(self, shared: Schema) -> Schema:
        """The same for editors; what is used in several places is put into *shared*, by its name."""


class Field(NamedTuple):
    """A setting: what it must be, and what it is for, in words for editors."""

    kind: Kind
    about: str


def described(field: Field, shared: Schema) -> Schema:
    """The schema of a setting, with its description; nothing may stand beside a ``$ref`` in draft 07."""
    schema = field.kind.schema(shared)
    return {"description": field.about} | ({"allOf": [schema]} if "$ref" in schema else schema)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text of some *form*; ``null``, no limit, if *nullable*."""

    form: Form
    nullable: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        wanted = self.form.wanted
        text = reader.text(node, path, wanted)
        if text is None:
            return INVALID
        empty = reader.is_null(node)
        if empty and self.nullable and text.value:
            return None
        try:
            return self.form.parse("" if empty else text.value)
        except ValueError as error:
            hint = f"; {error}" if str(error) else ""
        wanted = f"{wanted}, or null for no limit" if self.nullable else wanted
        reader.wrong(node, path, f"must be {wanted}, got {text.shown}{hint}")
        return INVALID

    def schema(self, shared: Schema) -> Schema:
        shared.setdefault(self.form.name, self.form.schema)
        reference = {"$ref": f"#/definitions/{self.form.name}"}
        return {"anyOf": [reference, {"type": "null"}]} if self.nullable else reference


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words.

    Args:
        words: They.
        estimates: Of these, the one that is wrong without any prices, for which the loader looks.
    """

    words: tuple[str, ...]
    estimates: str | None = None

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        wanted = " or ".join(self.words)
        text = reader.text(node, path, wanted)
        if text is None:
            return INVALID
        if text.value in self.words:
            if text.value == self.estimates:
                reader.estimates.append((node, path))
            return text.value
        reader.wrong(node, path, f"must be {wanted}, got {text.shown}{close_to(text.value, self.words)}")
        return INVALID

    def schema(self, shared: Schema) -> Schema:
        del shared
        return {"anyOf": [{"enum": list(self.words)}, {"type": "string", "pattern": VARIABLE}]}


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of *what*, such as *example*; no two items with one name, if they are *named*."""

    item: Kind
    what: str
    example: str
    named: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        items = reader.sequence(node, path, f"a list of {self.what}, such as {self.example}")
        if items is None:
            return INVALID
        values = [self.item.read(reader, item, (*path, str(i))) for i, item in enumerate(items)]
        if INVALID in values or (self.named and self._share_a_name(reader, items, values, path)):
            return INVALID
        return tuple(values)

    def _share_a_name(self, reader: Reader, items: list[Node], values: list[Any], path: Path) -> bool:
        first: dict[str, int] = {}
        for i, (item, value) in enumerate(zip(items, values, strict=True)):
            before = first.setdefault(value.name, i)
            if before != i:
                line = items[before].start_mark.line + 1
                message = f"the one in line {line} is called {value.name!r} too; give one of them a name"
                reader.wrong(item, (*path, str(i)), message)
        return len(first) < len(items)

    def schema(self, shared: Schema) -> Schema:
        return {"type": "array", "items": self.item.schema(shared)}


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping of known names, from which *build* makes a value.

    Args:
        fields: Name -> what may stand there.
        build: Called with the values.
        called: Its name among the schema's definitions, if it is used in several places.
        required: The names without which it means nothing.
        later: Names that versions to come will know.
        may_be_empty: Nothing at all is what *build* makes of nothing.
        located: Whether *build* is told the place, ``file:line``, as ``origin``.
        rules: What has to hold between the fields, as schemas; *build* refuses the rest.
    """

    fields: Mapping[str, Field]
    build: Callable[..., Any]
    called: str | None = None
    required: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    may_be_empty: bool = False
    located: bool = False
    rules: tuple[Schema, ...] = field(default=(), compare=False)

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        if self.may_be_empty and reader.is_null(node):
            return self.build()
        entries = reader.mapping(node, path)
        if entries is None:
            return INVALID
        values = {name: self._value(reader, name, entry, (*path, name)) for name, entry in entries.items()}
        missing = [name for name in self.required if name not in entries]
        for name in missing:
            reader.wrong(node, path, f"{name} is missing")
        if missing or INVALID in values.values():
            return INVALID
        if self.located:
            values["origin"] = reader.origin(path)
        try:
            return self.build(**values)
        except ConfigError as error:
            name = str(error).split(maxsplit=1)[0]
            if name in entries:
                node, path = entries[name].value, (*path, name)
            reader.wrong(node, path, str(error))
            return INVALID

    def _value(self, reader: Reader, name: str, entry: Entry, path: Path) -> Any:
        if name in self.fields:
            return self.fields[name].kind.read(reader, entry.value, path)
        hint = f"unknown setting{did_you_mean(name, self.fields)}"
        reader.wrong(entry.key, path, "not supported by this version yet" if name in self.later else hint)
        return INVALID

    def schema(self, shared: Schema) -> Schema:
        if self.called is None:
            return self._schema(shared)
        if self.called not in shared:
            shared[self.called] = {}  # its place among the definitions, before those it needs
            shared[self.called] = self._schema(shared)
        return {"$ref": f"#/definitions/{self.called}"}

    def _schema(self, shared: Schema) -> Schema:
        schema: Schema = {
            "type": ["object", "null"] if self.may_be_empty else "object",
            "properties": {name: described(field, shared) for name, field in self.fields.items()},
            "additionalProperties": False,
        }
        if self.required:
            schema["required"] = list(self.required)
        if self.rules:
            schema["allOf"] = list(self.rules)
        return schema


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping of free names, patterns unless *exact*, to values of one kind; nothing at all is an empty one."""

    item: Kind
    names_budgets: bool = False
    exact: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        entries = {} if reader.is_null(node) else reader.mapping(node, path)
        if entries is None:
            return INVALID
        if self.names_budgets:
            reader.budgets.extend(entries)
        for name, entry in entries.items():
            if self.exact and is_pattern(name):
                reader.wrong(entry.key, (*path, name), "patterns are not understood here; name each one")
        values = {name: self.item.read(reader, entry.value, (*path, name)) for name, entry in entries.items()}
        return INVALID if INVALID in values.values() else values

    def schema(self, shared: Schema) -> Schema:
        return {
            "type": ["object", "null"],
            "additionalProperties": self.item.schema(shared),
            "propertyNames": EXACT_NAMES if self.exact else NAMES,
        }


@dataclass(frozen=True, slots=True)
class BudgetOrName:
    """A budget in place, or the name of one; ``null`` if *nullable*."""

    budget: Kind
    nullable: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        if not reader.is_scalar(node):
            return self.budget.read(reader, node, path)
        text = reader.text(node, path, "a budget or the name of one")
        if text is None:
            return INVALID
        if reader.is_null(node):
            if self.nullable:
                return None
            reader.wrong(node, path, f"must be a budget or the name of one, got {text.shown}")
            return INVALID
        return reader.refer(text, node, path)

    def schema(self, shared: Schema) -> Schema:
        name = {"type": ["string", "number", "boolean", *(["null"] if self.nullable else [])]}
        return {"anyOf": [name, self.budget.schema(shared)]}
