"""Reading a node graph: what stands where, and everything that is wrong with it, collected."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from otelbudget.config.patterns import NAME
from otelbudget.config.problems import dotted, refused
from otelbudget.errors import Problem

__all__ = ["Entry", "Path", "Reader", "Reference", "Text"]

#: How many values are looked at before the file is called too large; aliases can make a small file a huge one.
_MOST_VALUES: Final = 100_000
_NAME: Final = re.compile(NAME)
_LONGEST_SHOWN: Final = 60

_PLAIN_TAGS: Final = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))
# OpenTelemetry's configuration data model, "Environment variable substitution".
_REFERENCE: Final = re.compile(
    r"\$\$|\$\{(?:env:)?(?P<name>[A-Za-z_]\w*)(?P<default>:-[^}\n]*)?\}|\$\{[^}]*\}?", re.ASCII
)

#: Where a value stands, from the top: ``("budgets", "quick", "max_steps")``.
Path = tuple[str, ...]


class Text(NamedTuple):
    """A scalar.

    Attributes:
        value: With variables replaced.
        shown: As the file has it, quoted for a message; never what a variable held, which may be a secret.
        plain: Not quoted in the file, so that ``null`` means no value.
    """

    value: str
    shown: str
    plain: bool


class Entry(NamedTuple):
    """One entry of a mapping."""

    key: Node
    value: Node


class Reference(NamedTuple):
    """A budget meant by its name, which is looked up when all are known."""

    name: str
    shown: str
    node: Node
    path: Path


class Reader:
    """Gives the contents of nodes; what is wrong is noted and given as None, so that reading goes on.

    Args:
        source: The file, for messages.
        variables: What ``${NAME}`` is replaced from; the process environment if None.

    Attributes:
        budgets: The names of all budgets, right or wrong.
        references: The names by which budgets are meant.
        estimates: Where it is said that unknown prices are estimated by the known ones.
        lines: Path -> line of everything read so far.
    """

    def __init__(self, source: str, variables: Mapping[str, str] | None = None) -> None:
        self.source = source
        self._variables = os.environ if variables is None else variables
        self.budgets: list[str] = []
        self.references: list[Reference] = []
        self.estimates: list[tuple[Node, Path]] = []
        self.lines: dict[Path, int] = {}
        self._problems: dict[tuple[int, int, str], Path] = {}
        self._left = _MOST_VALUES

    def wrong(self, node: Node, path: Path, message: str) -> None:
        """Note that *node*, at *path*, is wrong. Said once per place, however many aliases lead there."""
        mark = node.start_mark
        self._problems.setdefault((mark.line + 1, mark.column + 1, message), path)

    def check(self) -> None:
        """Raise everything noted so far as one ConfigError, if there is anything."""
        if self._problems:
            raise refused(
                Problem(self.source, line, column, dotted(path), message)
                for (line, column, message), path in sorted(self._problems.items())
            )

    def origin(self, path: Path) -> str | None:
        """Where *path* was read, ``file:line``; None for the file as a whole."""
        line = self.lines.get(path)
        return None if line is None else f"{self.source}:{line}"

    def mapping(self, node: Node, path: Path) -> dict[str, Entry] | None:
        """The entries of a mapping, merge keys followed, own ones first."""
        if not isinstance(node, MappingNode):
            self.wrong(node, path, f"must be a mapping, got {self.describe(node)}")
            return None
        if not self._plain(node, path):
            return None
        own, merges = self._split(node, path)
        merged: dict[str, Entry] = {}
        for value in merges:
            for name, entry in self._merged(value, path, (id(node),)):
                merged.setdefault(name, entry)
        entries = own | {name: entry for name, entry in merged.items() if name not in own}
        self.lines |= {(*path, name): entry.key.start_mark.line + 1 for name, entry in entries.items()}
        return entries

    def sequence(self, node: Node, path: Path, wanted: str) -> list[Node] | None:
        """The items of a list."""
        if not isinstance(node, SequenceNode):
            self.wrong(node, path, f"must be {wanted}, got {self.describe(node)}")
            return None
        if not self._plain(node, path):
            return None
        for i, item in enumerate(node.value):
            self._look(item)
            self.lines[*path, str(i)] = item.start_mark.line + 1
        return list(node.value)

    def text(self, node: Node, path: Path, wanted: str) -> Text | None:
        """The text of a scalar, variables replaced."""
        if not isinstance(node, ScalarNode):
            self.wrong(node, path, f"must be {wanted}, got {self.describe(node)}")
            return None
        if not self._plain(node, path):
            return None
        value = self._replaced(node, path)
        return None if value is None else Text(value, self.describe(node), node.style is None)

    def refer(self, text: Text, node: Node, path: Path) -> Reference:
        """Note that a budget is meant by its name."""
        reference = Reference(text.value, text.shown, node, path)
        self.references.append(reference)
        return reference

    @staticmethod
    def is_null(node: Node) -> bool:
        """Whether *node* is an unquoted ``null`` or ``~``, or nothing at all."""
        return isinstance(node, ScalarNode) and node.style is None and node.value in ("", "~", "null", "Null", "NULL")

    @staticmethod
    def is_scalar(node: Node) -> bool:
        """Whether *node* is a text, and neither a mapping nor a list."""
        return isinstance(node, ScalarNode)

    @staticmethod
    def describe(node: Node) -> str:
        """What stands at *node*, short enough for a message."""
        if isinstance(node, MappingNode):
            return "a mapping"
        if isinstance(node, SequenceNode):
            return "a list"
        text = str(node.value)
        if not text and isinstance(node, ScalarNode) and node.style is None:
            return "nothing"
        return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "...")

    def _split(self, node: MappingNode, path: Path) -> tuple[dict[str, Entry], list[Node]]:
        """What a mapping says itself, and what it merges in."""
        own: dict[str, Entry] = {}
        merges: list[Node] = []
        for key, value in node.value:
            self._look(key)
            if isinstance(key, ScalarNode) and key.value == "<<" and key.style is None:
                merges.append(value)
            elif (name := self._name(key, path)) is None:
                continue
            elif name in own:
                first = own[name].key.start_mark.line + 1
                self.wrong(key, (*path, name), f"is given twice, first in line {first}")
            else:
                own[name] = Entry(key, value)
        return own, merges

    def _merged(self, node: Node, path: Path, inside: tuple[int, ...]) -> Iterator[tuple[str, Entry]]:
        """Entries that ``<<`` brings in; of two with one name the first counts."""
        self._look(node)
        if id(node) in inside:
            self.wrong(node, path, "is merged into itself")
        elif not self._plain(node, path):
            return
        elif isinstance(node, SequenceNode):
            for item in node.value:
                yield from self._merged(item, path, (*inside, id(node)))
        elif not isinstance(node, MappingNode):
            self.wrong(node, path, f"<< needs a mapping or a list of mappings, got {self.describe(node)}")
        else:
            own, merges = self._split(node, path)
            yield from own.items()
            for value in merges:
                yield from self._merged(value, path, (*inside, id(node)))

    def _name(self, key: Node, path: Path) -> str | None:
        if not isinstance(key, ScalarNode):
            self.wrong(key, path, f"a name must be a text, got {self.describe(key)}")
            return None
        if not self._plain(key, path):
            return None
        name = str(key.value)
        if not _NAME.fullmatch(name):
            self.wrong(key, path, f"a name must have 1 to 200 printable characters, got {self.describe(key)}")
            return None
        if "${" in name:
            self.wrong(key, path, f"variables are replaced in values, not in names: {self.describe(key)}")
            return None
        return name.replace("$$", "$")  # as in values, so that one text means one thing in both

    def _plain(self, node: Node, path: Path) -> bool:
        if node.tag in _PLAIN_TAGS:
            return True
        self.wrong(node, path, f"YAML tags such as {node.tag[:_LONGEST_SHOWN]!r} are not understood; leave it out")
        return False

    def _replaced(self, node: ScalarNode, path: Path) -> str | None:
        parts, end = [], 0
        for found in _REFERENCE.finditer(node.value):
            parts.append(node.value[end : found.start()])
            end = found.end()
            value = "$" if found[0] == "$$" else self._variable(found, node, path)
            if value is None:
                return None
            parts.append(value)
        return "".join([*parts, node.value[end:]])

    def _variable(self, found: re.Match[str], node: ScalarNode, path: Path) -> str | None:
        name, default = found["name"], found["default"]
        if name is None:
            self.wrong(node, path, f"{found[0]!r} is not understood; write ${{NAME}} or ${{NAME:-default}}")
            return None
        value = self._variables.get(name, "")
        if value:
            return value
        if default is not None:
            return str(default[2:])
        what = "empty" if name in self._variables else "not set"
        self.wrong(node, path, f"the environment variable {name} is {what}; ${{{name}:-default}} gives a default")
        return None

    def _look(self, node: Node) -> None:
        self._left -= 1
        if self._left < 0:
            self.wrong(node, (), f"more than {_MOST_VALUES:,} values up to here; aliases count wherever they are used")
            self.check()
