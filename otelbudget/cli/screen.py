"""Where a command writes: colours and a live table with rich on a terminal, plain lines everywhere else."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.padding import Padding

WIDTH: Final = 100

#: What a text is about: how it is coloured where there are colours.
Mark = Literal["good", "bad", "warn", "dim", "plain"]
Cell = tuple[str, Mark]

_STYLES: Final = {"good": "green", "bad": "bold red", "warn": "yellow", "dim": "bright_black", "plain": ""}


class PlainScreen:
    """Plain text on standard output."""

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._write(f"\n{text}")

    def line(self, *cells: Cell, indent: int = 2, hang: int = 2) -> None:
        """A line of text, wrapped at the width; what does not fit goes on *hang* further to the right."""
        text = "".join(text for text, _ in cells)
        self._write(textwrap.fill(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * (indent + hang)))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table; numbers are right-aligned where the head ends in a space."""
        texts = [[title.strip() for title in head], *([text for text, _ in row] for row in rows)]
        widths = [max(len(row[i]) for row in texts) for i in range(len(head))]
        for row in texts:
            cells = [
                text.rjust(width) if title.endswith(" ") else text.ljust(width)
                for text, width, title in zip(row, widths, head, strict=True)
            ]
            self._write(("  " + "  ".join(cells)).rstrip())

    def _write(self, text: str) -> None:
        try:
            # In one piece and at once: agents report from their threads, and a pipe's reader wants to see them live.
            print(f"{text}\n", end="", flush=True)
        except BrokenPipeError:  # the reader has seen enough, as `head` does; the rest goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class RichScreen:
    """Colours through a rich console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def heading(self, text: str) -> None:
        """Begin a section."""
        self.console.print(f"\n[bold]{text}[/]", highlight=False)

    def line(self, *cells: Cell, indent: int = 2, hang: int = 2) -> None:
        """A line, wrapped."""
        from rich.text import Text

        text = Text.assemble(*((text, _STYLES[mark]) for text, mark in cells))
        width = self.console.width - indent
        lines = [text] if text.cell_len <= width else text.wrap(self.console, width - hang)
        for number, line in enumerate(lines):
            line.rstrip()
            self.console.print(Text(" " * (indent + (hang if number else 0))) + line, soft_wrap=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table."""
        self.console.print(self.grid(head, rows))

    def svg(self, title: str) -> str:
        """All that was written so far, as a picture that refers to nothing outside itself; the console must record."""
        text = self.console.export_svg(title=title, unique_id="otelbudget")
        return re.sub(r"\n\s*@font-face \{.*?\}", "", text, flags=re.DOTALL)

    def grid(self, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Padding:
        """The table as something that rich can show live."""
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bright_black")
        for title in head:
            table.add_column(title.strip(), justify="right" if title.endswith(" ") else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(text, _STYLES[mark]) for text, mark in row))
        if self.console.width < WIDTH:  # better without the time than with every column cut
            table.columns = [column for column in table.columns if column.header != "Seconds"]
        return Padding(table, (0, 0, 0, 2))


Screen = PlainScreen | RichScreen


def screen() -> Screen:
    """Rich on a terminal that has it, else plain."""
    console = rich_console() if sys.stdout.isatty() else None
    return PlainScreen() if console is None or console.is_dumb_terminal else RichScreen(console)


def rich_console(**options: Any) -> Console | None:
    """A console at most `WIDTH` wide, or None without rich (``pip install 'otelbudget[demo]'``)."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(**options)
    return console if console.width <= WIDTH else Console(**{**options, "width": WIDTH})
