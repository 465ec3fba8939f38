"""Reading a node graph: what stands where, and everything that is wrong with it, collected."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Final

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from otelbudget.config.forms import NAME_PATTERN
from otelbudget.config.problems import MOST_SAID, did_you_mean, dotted, refused, shown
from otelbudget.errors import Problem

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

    def __init__(self, source: str) -> None:
        self.source = source
        #: The names of budgets, right or wrong, that the rest of the file refers to.
        self.budgets: Collection[str] = ()
        #: Of everything that was read: the node of its name, or of itself in a list, and that of its value.
        self._places: dict[Path, tuple[Node, Node]] = {}
        self._problems: dict[tuple[int, int, str], Path] = {}

    def wrong(self, node: Node, path: Path, message: str) -> None:
        """Note that *node*, at *path*, is wrong. Said once per place, however many aliases lead there."""
        mark = node.start_mark
        self._problems.setdefault((mark.line + 1, mark.column + 1, message), path)

    def unknown(self, node: Node, path: Path, message: str, name: str, known: Collection[str]) -> None:
        """Note that *name* is none of *known*; which of them was meant is looked for as long as anybody reads it."""
        self.wrong(node, path, message + (did_you_mean(name, known) if len(self._problems) < MOST_SAID else ""))

    def refused(self, node: Node, path: Path, message: str) -> None:
        """Note what a value said that was built from *node*.

        It begins with what is wrong, as in "at goes with per day", "store.ttl_s must be", "quotas.org[1]: a quota".
        """
        first, _, rest = message.partition(" ")
        parts = tuple(part.removesuffix("_s") for part in re.findall(r"[^.\[\]:]+", first))
        below = [(*path, *inside[:n]) for inside in (parts, parts[1:]) for n in range(len(inside), 0, -1)]
        place = next((place for place in below if place in self._places), path)
        node = self._places[place][1] if place in self._places else node
        self.wrong(node, place, rest if first.endswith(":") and place != path else message)

    def check(self) -> None:
        """Raise everything noted so far as one ConfigError, if there is anything."""
        if self._problems:
            raise refused(
                Problem(self.source, line, column, dotted(path), message)
                for (line, column, message), path in sorted(self._problems.items())
            )

    def origin(self, path: Path) -> str | None:
        """Where *path* was read, ``file:line``; None for the file as a whole."""
        place = self._places.get(path)
        return None if place is None else f"{self.source}:{place[0].start_mark.line + 1}"

    @property
    def lines(self) -> dict[Path, int]:
        """The lines of everything that was read."""
        return {path: place[0].start_mark.line + 1 for path, place in self._places.items()}

    def mapping(self, node: Node, path: Path) -> Entries | None:
        """The entries of a mapping."""
        if not self._is(node, MappingNode, path, "a mapping"):
            return None
        entries: Entries = {}
        for key, value in node.value:
            name = self._name(key, path)
            if name is None:
                continue
            if name in entries:
                first = entries[name][0].start_mark.line + 1
                self.wrong(key, (*path, name), f"is given twice, first in line {first}")
                continue
            entries[name] = self._places[*path, name] = (key, value)
        return entries

    def sequence(self, node: Node, path: Path, wanted: str) -> list[Node] | None:
        """The items of a list."""
        if not self._is(node, SequenceNode, path, wanted):
            return None
        for i, item in enumerate(node.value):
            self._places[*path, str(i)] = (item, item)
        return list(node.value)

    def text(self, node: Node, path: Path, wanted: str) -> str | None:
        """The text of a scalar, variables replaced."""
        if not self._is(node, ScalarNode, path, wanted):
            return None
        values = [self._variable(found, node, path) for found in _REFERENCE.finditer(node.value)]
        if None in values:
            return None
        replacing = iter(values)
        return _REFERENCE.sub(lambda _: str(next(replacing)), node.value)

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

    def _name(self, key: Node, path: Path) -> str | None:
        if not isinstance(key, ScalarNode):
            self.wrong(key, path, f"a name must be a text, got {self.describe(key)}")
        elif not self._plain(key, path):
            pass
        elif key.value == "<<" and key.style is None:
            self.wrong(key, path, "YAML's merge keys are not understood; write the settings out, or use *alias alone")
        elif not re.fullmatch(NAME_PATTERN, key.value):
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

    def _variable(self, found: re.Match[str], node: Node, path: Path) -> str | None:
        name, default = found["name"], found["default"]
        if found[0] == "$$":
            return "$"
        if name is None:
            self.wrong(node, path, f"{shown(found[0])} is not understood; write ${{NAME}} or ${{NAME:-default}}")
            return None
        value = os.environ.get(name, "")
        if value:
            return value
        if default is not None:
            return str(default[2:])
        what = "empty" if name in os.environ else "not set"
        self.wrong(node, path, f"the environment variable {name} is {what}; ${{{name}:-default}} gives a default")
        return None
