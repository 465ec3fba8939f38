"""What a value of a ``budgets.yaml`` may be. Each kind reads a value, and says the same as a JSON Schema.

A new kind is a class here with `read` and `schema`; both must take the same values, which the tests compare.
"""

# ruff: noqa: D102  what `read` and `schema` do is said once, in `Kind`

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from otelbudget.config.scalars import NAME, Unreadable, none_of
from otelbudget.errors import ConfigError
from otelbudget.model.names import is_pattern

if TYPE_CHECKING:
    from yaml.nodes import Node

    from otelbudget.config.reader import Entries, Path, Reader

#: A JSON Schema, or a part of one.
Schema = dict[str, Any]

#: What a kind gives for a value that is wrong; the reader has noted why.
INVALID: Final[Any] = object()


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

    def schema(self, shared: Schema) -> Schema:
        """The schema of its kind with a description; nothing may stand beside a ``$ref`` in draft 07."""
        schema = self.kind.schema(shared)
        return {"description": self.about} | ({"allOf": [schema]} if "$ref" in schema else schema)


#: The names of ``budgets`` and ``prices``, to which the rest of a file refers.
Known = Mapping[str, Collection[str]]
Fits = Callable[[Any, Known], Unreadable | None]


def fits_any(value: Any, known: Known) -> Unreadable | None:
    """Every value fits, whatever the rest of the file says."""


@dataclass(frozen=True, slots=True)
class Form:
    """A text of one form, *wanted* in messages; `null` for no limit, if it is *nullable*."""

    wanted: str
    parse: Callable[[str], Any]
    as_schema: Schema
    #: What definitions of the schema call it; None writes the schema out wherever it is used.
    name: str | None = None
    #: Value, the names that the file knows -> what keeps them from fitting, to be said of the value; or None.
    fits: Fits = fits_any
    nullable: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        text = reader.text(node, path, self.wanted)
        if text is None:
            return INVALID
        null = reader.is_null(node)
        if null and self.nullable and text:
            return None
        try:
            value = self.parse("" if null else text)
            error = self.fits(value, reader.known)
            said = f"{reader.describe(node)} "
        except Unreadable as unreadable:
            error = unreadable
            said = f"must be {self.wanted}{', or null for no limit' * self.nullable}, got {reader.describe(node)}; "
        if error is None:
            return value
        reader.wrong(node, path, (said + reader.hint(text, error)).removesuffix("; "))
        return INVALID

    def schema(self, shared: Schema) -> Schema:
        schema = self.as_schema
        if self.name is not None:
            shared.setdefault(self.name, schema)
            schema = {"$ref": f"#/definitions/{self.name}"}
        return {"anyOf": [schema, {"type": "null"}]} if self.nullable else schema


@dataclass(frozen=True, slots=True)
class TextOr:
    """Something *whole*, or a text in its place; nothing at all is None, if it *may_be_empty*."""

    text: Form
    whole: Kind
    may_be_empty: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        if self.may_be_empty and reader.is_null(node):
            return None
        return (self.text if reader.is_scalar(node) else self.whole).read(reader, node, path)

    def schema(self, shared: Schema) -> Schema:
        null = [{"type": "null"}] if self.may_be_empty else []
        return {"anyOf": [self.text.schema(shared), *null, self.whole.schema(shared)]}


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
        lines: dict[str, int] = {}
        for i, item in enumerate(items if self.named else ()):
            if values[i] is not INVALID and (name := values[i].name) in lines:
                message = f"the one in line {lines[name]} is called {name!r} too; give one of them a name"
                reader.wrong(item, (*path, str(i)), message)
                values[i] = INVALID
            elif values[i] is not INVALID:
                lines[name] = item.start_mark.line + 1
        return INVALID if INVALID in values else tuple(values)

    def schema(self, shared: Schema) -> Schema:
        return {"type": "array", "items": self.item.schema(shared)}


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping of known names, from which *build* makes a value. It is read in the order of its fields."""

    fields: Mapping[str, Field]
    build: Callable[..., Any]
    #: Its name among the schema's definitions, if it is used in several places.
    called: str | None = None
    required: tuple[str, ...] = ()
    #: Names that versions to come will know.
    later: tuple[str, ...] = ()
    #: Nothing at all is what *build* makes of nothing.
    may_be_empty: bool = False
    #: Whether *build* is told the place, ``file:line``, as ``origin``.
    located: bool = False
    #: What has to hold between the fields, as schemas; *build* refuses the rest.
    rules: tuple[Schema, ...] = field(default=(), compare=False)

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
                later = Unreadable("not supported by this version yet") if name in self.later else None
                hint = reader.hint(name, later or none_of(self.fields, "unknown setting"))
                reader.wrong(key, (*path, name), hint)
        missing = [name for name in self.required if name not in entries]
        for name in missing:
            reader.wrong(node, path, f"{name} is missing")
        if missing or len(values) < len(entries) or INVALID in values.values():
            return INVALID
        return self._built(reader, node, path, values, entries)

    def _built(self, reader: Reader, node: Node, path: Path, values: dict[str, Any], entries: Entries) -> Any:
        if self.located:
            values["origin"] = reader.origin(path)
        try:
            return self.build(**values)
        except ConfigError as error:
            name = str(error).split(maxsplit=1)[0]
            if name in entries:
                node, path = entries[name][1], (*path, name)
            reader.wrong(node, path, str(error))
            return INVALID

    def schema(self, shared: Schema) -> Schema:
        schema: Schema = {} if self.called is None else shared.setdefault(self.called, {})
        if not schema:
            schema["type"] = ["object", "null"] if self.may_be_empty else "object"
            schema["properties"] = {name: field.schema(shared) for name, field in self.fields.items()}
            schema["additionalProperties"] = False
            schema |= {"required": list(self.required)} if self.required else {}
            schema |= {"allOf": list(self.rules)} if self.rules else {}
        return schema if self.called is None else {"$ref": f"#/definitions/{self.called}"}


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping of free names, patterns unless *exact*, to values of one kind; nothing at all is an empty one.

    Its names are *known* to the rest of the file, if that says as what.
    """

    item: Kind
    known: str | None = None
    exact: bool = False

    def read(self, reader: Reader, node: Node, path: Path) -> Any:
        entries = {} if reader.is_null(node) else reader.mapping(node, path)
        if entries is None:
            return INVALID
        if self.known is not None:
            reader.known[self.known] = entries
        values: dict[str, Any] = {}
        for name, (key, value) in entries.items():
            values[name] = self.item.read(reader, value, (*path, name))
            if self.exact and is_pattern(name):
                reader.wrong(key, (*path, name), "patterns are not understood here; name each one")
                values[name] = INVALID
        return INVALID if INVALID in values.values() else values

    def schema(self, shared: Schema) -> Schema:
        without, words = (r"\$\{|[*?\[]", "${VARIABLES}, *, ? and [") if self.exact else (r"\$\{", "${VARIABLES}")
        return {
            "type": ["object", "null"],
            "additionalProperties": self.item.schema(shared),
            "propertyNames": {
                "pattern": rf"^(?!.*(?:{without})){NAME}$(?!\n)",
                "patternErrorMessage": f"must be a name of 1 to 200 printable characters, without {words}",
            },
        }
