"""The committed result of the matrix names every group and SDK, all were held, and README.md says the same."""

from __future__ import annotations

from pathlib import Path

from matrix import results

MATRIX = Path(results.__file__).parent
TEXT = results.RESULTS.read_text("utf-8")
FRAMEWORKS, SDKS = results.rows(TEXT, results.FRAMEWORKS), results.rows(TEXT, results.SDKS)


def test_every_group_has_rows() -> None:
    groups = {rules.parent.name for rules in MATRIX.glob("*/rules.py")}
    assert {row[0] for row in FRAMEWORKS} == {name for name in groups if not name.startswith("model_sdks")}


def test_none_of_the_frameworks_sent_more_than_was_allowed() -> None:
    ours = [row for row in FRAMEWORKS if "its own limit" not in row[3]]
    assert len(ours) > len({row[0] for row in ours})
    assert {(int(row[6]) <= int(row[5]), row[8]) for row in ours} == {(True, "yes")}


def test_no_sdk_sent_or_was_charged_more_than_was_allowed_beside_any_instrumentation() -> None:
    ran = [row for row in SDKS if row[3] != "-"]
    assert len({row[0] for row in ran}) == 13
    assert {(*row[4:7], row[8]) for row in ran} == {("0", "1", "exact", "yes")}
    assert {row[7] for row in ran if row[0] != "dspy"} == {"BudgetExceeded"}
    assert all(row[8].startswith("it does not load") for row in SDKS if row not in ran)


def test_the_readme_says_what_the_result_says() -> None:
    readme = results.README.read_text("utf-8")
    assert results.with_summary(readme, TEXT) == readme
    assert results.summary(TEXT).count("| yes |") >= 5
