"""YAML documents as editors see them: as JSON, after the core schema of YAML 1.2."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}
INTEGER = re.compile(r"[-+]?[0-9]+")
OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
INFINITE = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN")


class NotJson(Exception):
    """The document has tags, recursion, names that are no texts, a name twice, or merges what is no mapping."""


def as_json(node: Node, inside: tuple[int, ...] = ()) -> Any:
    """What *node* is for an editor; numbers are exact."""
    if node.tag not in PLAIN_TAGS or id(node) in inside:
        raise NotJson
    inside = (*inside, id(node))
    if isinstance(node, ScalarNode):
        return scalar(node.value) if node.style is None else node.value
    if isinstance(node, SequenceNode):
        return [as_json(item, inside) for item in node.value]
    return {name: as_json(value, inside) for name, value in entries(node, inside).items()}


def entries(node: Node, inside: tuple[int, ...]) -> dict[str, Node]:
    if not isinstance(node, MappingNode):
        raise NotJson
    own, merged = {}, {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode) or key.tag not in PLAIN_TAGS:
            raise NotJson
        if key.value == "<<" and key.style is None:
            for one in value.value if isinstance(value, SequenceNode) else [value]:
                if id(one) in inside:
                    raise NotJson
                merged = entries(one, (*inside, id(one))) | merged
        elif key.value in own:
            raise NotJson
        else:
            own[key.value] = value
    return merged | own


def scalar(text: str) -> Any:
    """A plain scalar."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text[0] in "tT"
    if INTEGER.fullmatch(text):
        return int(text) if len(text) < 400 else float("inf")
    if OTHER_BASE.fullmatch(text):
        return int(text, 0)
    if FLOAT.fullmatch(text):
        exact = Decimal(text)
        if exact.adjusted() > 400:
            return float("inf")
        return int(exact) if exact == exact.to_integral_value() else exact
    if INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text
