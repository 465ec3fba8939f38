"""YAML text to a graph of nodes with positions. The one place that needs PyYAML."""

from __future__ import annotations

from typing import Any, Final

import yaml
from yaml.error import MarkedYAMLError
from yaml.nodes import Node
from yaml.reader import ReaderError

from otelbudget.config.problems import refused
from otelbudget.errors import Problem

#: What a plain YAML value can't begin with, though names and amounts do.
_INDICATORS: Final = frozenset("*&!%@`")


def compose(text: str, source: str) -> Node:
    """The root node of the one document in *text*; ConfigError if there is none or several, or one nests too deeply."""
    try:
        root = _composed(text)
    except MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        said = " ".join(filter(None, (error.problem, error.context)))
        hint = "" if type(error) is MarkedYAMLError else _hint(text, line, column)
        raise refused([Problem(source, line + 1, column + 1, "", f"{said}{hint}")]) from error
    except ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        character: Any = error.character  # its number, whatever types-PyYAML says
        message = f"YAML does not allow the character U+{character:04X}"
        raise refused([Problem(source, line, column, "", message)]) from error
    except yaml.YAMLError as error:
        raise refused([Problem(source, 1, 1, "", " ".join(str(error).split()))]) from error
    if root is None:
        raise refused([Problem(source, 1, 1, "", "the file is empty; it must hold at least `budgets:`")])
    return root


def _composed(text: str) -> Node | None:
    # It resolves no plain scalar: ``no``, ``5:00`` and ``1e3`` stay the texts that they are.
    loader = yaml.BaseLoader(text)
    try:
        root = loader.compose_document() if loader.check_node() else None
        if loader.check_node():
            mark = loader.peek_event().start_mark  # type: ignore[no-untyped-call]  # types-PyYAML 6.0.12
            raise MarkedYAMLError(problem="a second document begins here; only one is read", problem_mark=mark)
    except RecursionError as error:
        raise MarkedYAMLError(problem="nested too deeply", problem_mark=loader.get_mark()) from error
    except (ValueError, OverflowError) as error:  # an escape beyond Unicode, a number of too many digits
        raise MarkedYAMLError(problem=f"not understood: {error}", problem_mark=loader.get_mark()) from error
    finally:
        loader.dispose()
    return root


def _hint(text: str, line: int, column: int) -> str:
    """What most likely was meant at a place that YAML can't read."""
    lines = text.splitlines()
    here = lines[line] if line < len(lines) else ""
    if here[: column + 1].strip() == "" and "\t" in here[: column + 1]:
        return "; indent with spaces, not tabs"
    if "${" in here and "{" in here.replace("${", ""):
        return '; inside { } a ${VARIABLE} has to stand in quotes: "${VARIABLE}"'
    if _INDICATORS & set(here[max(0, column - 1) : column + 1]):
        return "; a name or value that begins with one of * & ! % @ ` has to stand in quotes"
    return ""
