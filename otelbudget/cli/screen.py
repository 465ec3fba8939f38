"""Where a command writes: with colours and a table that is drawn anew on a terminal, plain lines everywhere else."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import Any, Final, Literal

WIDTH: Final = 100
#: From here on a limit is nearly reached.
NEAR: Final = 0.8
_BAR: Final = 10

#: What a text is about: how it is coloured where there are colours.
Mark = Literal["good", "bad", "warn", "dim", "plain"]
Cell = tuple[str, Mark]

_COLOURS: Final = {"good": "32", "bad": "1;31", "warn": "33", "dim": "90", "plain": ""}


class Screen:
    """Standard output."""

    def __init__(self) -> None:
        on_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        #: Whether what was written can be drawn over.
        self.live = on_terminal
        self._coloured = (on_terminal and "NO_COLOR" not in os.environ) or "FORCE_COLOR" in os.environ
        self._size = shutil.get_terminal_size((WIDTH, 40))
        self._width = min(WIDTH, self._size.columns) if on_terminal else WIDTH
        self._drawn = 0

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._write(f"\n{self._painted(text, '1')}")

    def line(self, *cells: Cell, indent: int = 2, hang: int = 2) -> None:
        """A line of text, wrapped at the width; what does not fit goes on *hang* further to the right."""
        line, length = " " * indent, indent
        for text, mark in cells:
            for piece in re.findall(r"\s*\S+|\s+$", text):
                word = piece
                if length + len(word) > self._width and length > indent + hang:
                    self._write(line)
                    word, length = word.lstrip(), indent + hang
                    line = " " * length
                line += self._painted(word, _COLOURS[mark])
                length += len(word)
        self._write(line)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table; numbers are right-aligned where the head ends in a space."""
        self._write("\n".join(self._lines(head, rows)))

    def draw(
        self, head: Sequence[str], rows: Sequence[Sequence[Cell]], *, notes: Sequence[Cell] = (), last: bool = False
    ) -> None:
        """Draw *notes* and a table over what was drawn before; as much as fits, unless it is the *last*."""
        lines = [f"  {self._painted(text, _COLOURS[mark])}" for text, mark in notes] + self._lines(head, rows)
        lines = lines[: None if last else self._size.lines - 1]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        # Without wrapping: a line that the terminal breaks in two would be one more to go up.
        self._write(f"\x1b[?7l{up}" + "\n".join(f"\x1b[2K{line}" for line in lines) + "\x1b[J\x1b[?7h")
        self._drawn = len(lines)

    def _lines(self, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
        # Better without these than with every column cut.
        shown = [i for i, title in enumerate(head) if self._width >= WIDTH or title not in ("Budget", "Seconds ")]
        table = [[(title.strip(), "dim") for title in head], *rows]
        widths = {i: max(len(row[i][0]) for row in table) for i in shown}
        lines = []
        for row in table:
            cells = [self._painted(_aligned(row[i][0], widths[i], head[i]), _COLOURS[row[i][1]]) for i in shown]
            lines.append(("  " + "  ".join(cells)).rstrip())
        return lines

    def _painted(self, text: str, colour: str) -> str:
        # Names come from anywhere, and a terminal obeys what is written to it.
        text = text if text.isprintable() else "".join([one if one.isprintable() else "\ufffd" for one in text])
        return f"\x1b[{colour}m{text}\x1b[0m" if self._coloured and colour else text

    def _write(self, text: str) -> None:
        try:
            # In one piece and at once: agents report from their threads, and a pipe's reader wants to see them live.
            print(f"{text}\n", end="", flush=True)
        except BrokenPipeError:  # the reader has seen enough, as `head` does; the rest goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def amount(resource: str, value: Any) -> str:
    """So much of a resource, as people read it."""
    if resource == "cost_usd":
        whole, _, cents = f"{value:.4f}".partition(".")
        return f"${whole}.{cents.rstrip('0'):0<2}"
    return f"{value:.2f}".rstrip("0").rstrip(".") if resource == "seconds" else f"{value:,}"


def bar(ratio: float) -> str:
    """How much of a limit is taken, drawn."""
    filled = round(min(1.0, ratio) * _BAR)
    return f"{'█' * filled}{'░' * (_BAR - filled)} {ratio:.0%}"


def _aligned(text: str, width: int, title: str) -> str:
    return text.rjust(width) if title.endswith(" ") else text.ljust(width)
