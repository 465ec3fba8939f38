"""Reading a node graph: what stands where, and everything that is wrong with it, collected.

The work is bounded by the size of the file, whatever stands in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Final

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from otelbudget.config.problems import MOST_COMPARED, MOST_FOUND, close_to, dotted, refused, shown
from otelbudget.config.scalars import NAME, Unreadable
from otelbudget.errors import Problem

#: How many values are looked at before the file is called too large; aliases can make a small file a huge one.
_MOST_VALUES: Final = 100_000
_LONGEST_TEXT: Final = 4_096
_DEEPEST_MERGE: Final = 40
#: What looking among few names counts as.
_FEWEST_COMPARED: Final = 200

_PLAIN_TAGS: Final = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))
# OpenTelemetry's configuration data model, "Environment variable substitution".
_REFERENCE: Final = re.compile(
    r"\$\$|\$\{(?:env:)?(?P<name>[A-Za-z_]\w*)(?P<default>:-[^}\n]*)?\}|\$\{[^}]*\}?", re.ASCII
)

#: Where a value stands, from the top: ``("budgets", "quick", "max_steps")``.
Path = tuple[str, ...]
#: Name -> the nodes of the key and of its value.
Entries = dict[str, tuple[Node, Node]]


class Reader:
    """Gives the contents of nodes; what is wrong is noted and given as None, so that reading goes on."""

    def __init__(self, source: str, variables: Mapping[str, str] | None = None) -> None:
        self.source = source
        self._variables = os.environ if variables is None else variables
        #: The names, right or wrong, that the rest of the file refers to.
        self.known: dict[str, Collection[str]] = {"budgets": (), "prices": ()}
        self.lines: dict[Path, int] = {}
        self._texts: dict[int, str | None] = {}
        self._problems: dict[tuple[int, int, str], Path] = {}
        self._values_left = _MOST_VALUES
        self._compared_left = MOST_COMPARED

    def wrong(self, node: Node, path: Path, message: str) -> None:
        """Note that *node*, at *path*, is wrong. Said once per place, however many aliases lead there."""
        mark = node.start_mark
        self._problems.setdefault((mark.line + 1, mark.column + 1, message), path)
        if len(self._problems) >= MOST_FOUND:
            self.check()

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

    def hint(self, text: str, error: Unreadable) -> str:
        """What *error* says of *text*, and what it knows of what was meant."""
        hints = [str(error)]
        if error.among is not None and self._compared_left > 0:
            among = list(islice(error.among(), self._compared_left))
            self._compared_left -= max(len(among), _FEWEST_COMPARED)
            hints.append(close_to(text, among) or error.otherwise())
        return "; ".join(filter(None, hints))

    def mapping(self, node: Node, path: Path) -> Entries | None:
        """The entries of a mapping: own ones, then those that merge keys bring in."""
        if not self._is(node, MappingNode, path, "a mapping"):
            return None
        entries = self._entries(node, path, ())
        self.lines |= {(*path, name): key.start_mark.line + 1 for name, (key, _) in entries.items()}
        return entries

    def sequence(self, node: Node, path: Path, wanted: str) -> list[Node] | None:
        """The items of a list."""
        if not self._is(node, SequenceNode, path, wanted):
            return None
        for i, item in enumerate(node.value):
            self._look(item)
            self.lines[*path, str(i)] = item.start_mark.line + 1
        return list(node.value)

    def text(self, node: Node, path: Path, wanted: str) -> str | None:
        """The text of a scalar, variables replaced."""
        if id(node) not in self._texts:
            self._texts[id(node)] = self._replaced(node, path) if self._is(node, ScalarNode, path, wanted) else None
        return self._texts[id(node)]

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
        """What stands at *node*, never what a variable in it holds, which may be a secret."""
        if not isinstance(node, ScalarNode):
            return "a mapping" if isinstance(node, MappingNode) else "a list"
        return "nothing" if node.style is None and not node.value else shown(node.value)

    def _is(self, node: Node, kind: type[Node], path: Path, wanted: str) -> bool:
        if not isinstance(node, kind):
            self.wrong(node, path, f"must be {wanted}, got {self.describe(node)}")
        return isinstance(node, kind) and self._plain(node, path)

    def _entries(self, node: Node, path: Path, inside: tuple[int, ...]) -> Entries:
        own: Entries = {}
        merges: list[Node] = []
        for key, value in node.value:
            self._look(key)
            if isinstance(key, ScalarNode) and key.value == "<<" and key.style is None:
                merges += value.value if isinstance(value, SequenceNode) and self._plain(value, path) else [value]
            elif (name := self._name(key, path)) is None:
                continue
            elif name in own:
                first = own[name][0].start_mark.line + 1
                self.wrong(key, (*path, name), f"is given twice, first in line {first}")
            else:
                own[name] = (key, value)
        for merged in merges:
            for name, entry in self._merged(merged, path, (*inside, id(node))).items():
                own.setdefault(name, entry)
        return own

    def _merged(self, node: Node, path: Path, inside: tuple[int, ...]) -> Entries:
        """What ``<<`` brings in; of two entries with one name the first counts."""
        self._look(node)
        if id(node) in inside:
            self.wrong(node, path, "is merged into itself")
        elif len(inside) > _DEEPEST_MERGE:
            self.wrong(node, path, f"more than {_DEEPEST_MERGE} mappings are merged one into the other")
        elif not isinstance(node, MappingNode):
            self.wrong(node, path, f"<< needs a mapping or a list of mappings, got {self.describe(node)}")
        elif self._plain(node, path):
            return self._entries(node, path, inside)
        return {}

    def _name(self, key: Node, path: Path) -> str | None:
        if not isinstance(key, ScalarNode):
            self.wrong(key, path, f"a name must be a text, got {self.describe(key)}")
        elif not self._plain(key, path):
            pass
        elif not re.fullmatch(NAME, key.value):
            self.wrong(key, path, f"a name must have 1 to 200 printable characters, got {self.describe(key)}")
        elif "${" in key.value:
            self.wrong(key, path, f"variables are replaced in values, not in names: {self.describe(key)}")
        else:
            return str(key.value.replace("$$", "$"))  # as in values, so that one text means one thing in both
        return None

    def _plain(self, node: Node, path: Path) -> bool:
        if node.tag not in _PLAIN_TAGS:
            self.wrong(node, path, f"YAML tags such as {shown(node.tag)} are not understood; leave it out")
        return node.tag in _PLAIN_TAGS

    def _replaced(self, node: Node, path: Path) -> str | None:
        parts, end, length = [], 0, len(node.value)
        for found in _REFERENCE.finditer(node.value if length <= _LONGEST_TEXT else ""):
            value = "$" if found[0] == "$$" else self._variable(found, node, path)
            if value is None:
                return None
            parts += [node.value[end : found.start()], value]
            end = found.end()
            length += len(value)
            if length > _LONGEST_TEXT:
                break
        if length > _LONGEST_TEXT:
            self.wrong(node, path, f"no value has more than {_LONGEST_TEXT:,} characters, variables replaced")
            return None
        return "".join([*parts, node.value[end:]])

    def _variable(self, found: re.Match[str], node: Node, path: Path) -> str | None:
        name, default = found["name"], found["default"]
        if name is None:
            self.wrong(node, path, f"{shown(found[0])} is not understood; write ${{NAME}} or ${{NAME:-default}}")
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
        self._values_left -= 1
        if self._values_left < 0:
            self.wrong(node, (), f"more than {_MOST_VALUES:,} values up to here; aliases count wherever they are used")
            self.check()
