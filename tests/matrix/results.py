"""RESULTS.md from the rows of a run of the matrix, and the summary of it in README.md: ``results.py FOLDER``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
README = Path(__file__).parents[2] / "README.md"
#: As the first column has them.
FAMILIES = {"native": "its own", **{name: name for name in ("official", "OpenLLMetry", "OpenInference", "Logfire")}}
#: The head of the table in README.md.
SUMMARY = "| SDK | with instrumentations | requests sent of 5, under `max_steps=0` and `max_steps=1` | blocks? |\n"
RULE = "|---|---|---|---|\n"
SDKS = "| SDK | version | beside | ways | sent of 0 | sent of 1 | charged | the caller saw | blocks? |"
FRAMEWORKS = "| group | package | version | with | wanted | allowed | sent | the caller saw | blocks? |"
TEXT = f"""\
# What real SDKs and frameworks do under a budget

Written by `tests/matrix/run --all`.

## SDKs of providers

Each way of calling (sync, streamed, async, both, and more), with budgets switched on before and after the
instrumentations: five calls in a run of no step, in one of one step, and of a tenant whose quota is one step; two each
outside of any run, under a budget of one step for all. "ways": tried in all; "sent": the most that arrived at the
server; "exact": the tokens that it said. After `shutdown()` every function of the SDK is what it was, and calls pass.

{SDKS}
|---|---|---|---|---|---|---|---|---|
%s
## Frameworks

"5 requests": the model is done at its fifth answer; "no end": it asks for the same tool over and over, twenty times;
"3 tool calls": for three at once, where one is allowed.
Rows with a hook are of `otelbudget.integrations`; "its own limit" is the framework's own budget of 3, as the runners of
`agent-budget-semantics` set it, with no limit of ours: the number that was sent.

{FRAMEWORKS}
|---|---|---|---|---|---|---|---|---|
%s"""


def write_row(table: str, *said: object) -> None:
    """Add a row to the result, if a result is wanted: ``run --all`` names a folder for it."""
    if folder := os.environ.get("OTELBUDGET_MATRIX_ROWS"):
        with (Path(folder) / table).open("a", encoding="utf-8") as file:
            file.write(f"| {' | '.join(' '.join(str(one).split()) for one in said)} |\n")


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table that *head* begins."""
    lines = text[text.index(head) :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def summary(text: str) -> str:
    """The table in README.md for the result *text*: a line for all SDKs of which it says the same."""
    by_package: dict[str, list[list[str]]] = {}
    for row in rows(text, SDKS):
        by_package.setdefault(row[0], []).append(row)
    lines: dict[str, list[str]] = {}
    for package, found in by_package.items():
        ran = [row for row in found if row[3] != "-"]
        versions = ", ".join(sorted({row[1] for row in ran}, key=lambda version: [*map(int, version.split("."))]))
        families = {row[2].partition(" ")[0] for row in ran}
        beside = ", ".join(name for family, name in FAMILIES.items() if family in families) or "none for it"
        blocks = "yes" if {(row[6], row[8]) for row in ran} == {("exact", "yes")} else "not always"
        said = f"{beside} | {max(row[4] for row in ran)}, {max(row[5] for row in ran)} | {blocks}"
        lines.setdefault(said, []).append(f"{package} {versions}")
    return SUMMARY + RULE + "".join(f"| {'; '.join(packages)} | {said} |\n" for said, packages in lines.items())


def with_summary(readme: str, text: str) -> str:
    """README.md with the table for *text* in its place."""
    before, _, rest = readme.partition(SUMMARY)
    return f"{before}{summary(text)}\n{rest.partition(chr(10) * 2)[2]}"


def main(folder: Path) -> None:
    written = ["".join(sorted((folder / name).read_text("utf-8").splitlines(True))) for name in ("sdks", "frameworks")]
    text = TEXT % tuple(written)
    RESULTS.write_text(text, "utf-8")
    README.write_text(with_summary(README.read_text("utf-8"), text), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
