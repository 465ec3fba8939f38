"""Reading a file takes time in proportion to its size, whatever stands in it: four times the text, about four times."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from otelbudget.config.loader import parse
from otelbudget.errors import ConfigError, Problem

#: Linear is 4, quadratic 16.
MOST_TIMES = 9


def refusal(text: str) -> tuple[Problem, ...]:
    try:
        parse(text.encode(), "b.yaml")
    except ConfigError as error:
        return error.problems
    return ()


def numbered(line: str, n: int) -> str:
    return "".join(line.replace("#", str(i)) for i in range(n))


def repeated(before: str, what: str, after: str = "") -> Callable[[int], str]:
    return lambda n: before + what * n + after


def listed(before: str, line: str, after: str = "") -> Callable[[int], str]:
    return lambda n: before + numbered(line, n) + after


#: What a file is full of, and how much of it makes some milliseconds.
FILES: dict[str, tuple[Callable[[int], str], int]] = {
    # names that are not known, or meant by others
    "misspelt budgets": (
        lambda n: f"budgets:\n{numbered(' budget#: {}' + chr(10), n)}agents:\n{numbered(' a#: budgte#' + chr(10), n)}",
        400,
    ),
    "budgets meant by name": (
        lambda n: f"budgets:\n{numbered(' b#: {}' + chr(10), n)}agents:\n{numbered(' a#: b#' + chr(10), n)}",
        200,
    ),
    "unknown settings": (listed("budgets:\n  a:\n", "    max_stepz#: 1\n"), 1_200),
    "unknown words": (listed("budgets:\n", "  a#: {on_exhausted: wran}\n"), 1_200),
    "unknown zones": (listed("quotas: {org: [", "{steps: 1, name: n#, timezone: Europe/Berln#},", "]}"), 1_200),
    "unknown windows": (listed("quotas: {org: [", "{steps: 1, name: n#, per: dya},", "]}"), 1_200),
    "estimates without prices": (listed("budgets:\n", "  b#: {on_unpriced: estimate}\n"), 1_200),
    "unset variables": (listed("budgets:\n", "  b#: {max_steps: '${NOTHING#}'}\n"), 1_200),
    # long texts
    "a duration of many parts": (repeated("budgets: {a: {max_seconds: ", "1h", "}}"), 50_000),
    "a duration of spaced parts": (repeated("budgets: {a: {max_seconds: ", "1h ", "}}"), 6_000),
    "a number of many digits": (repeated("budgets: {a: {max_steps: ", "1", "}}"), 40_000),
    "an amount of many digits": (repeated("budgets: {a: {max_cost_usd: $", "1_", "1}}"), 20_000),
    "a fraction of many digits": (repeated("prices: {a: {input: 0.", "3", "}}"), 40_000),
    "a ratio of many digits": (repeated("prices: {a: {input: 1, discount: ", "9", "%}}"), 40_000),
    "a time of many colons": (repeated("quotas: {org: [{steps: 1, at: ", "06:", "00}]}"), 10_000),
    "a window of many digits": (repeated("quotas: {org: [{steps: 1, per: rolling ", "1", "s}]}"), 40_000),
    "a long path of a store": (repeated("store: sqlite:///", "a/", "b"), 20_000),
    "a long name": (repeated("budgets: {? ", "k", " : {}}"), 40_000),
    "a long tag": (repeated("budgets: !", "x", " {}"), 40_000),
    "text of many lines": (repeated("default_budget:\n", "  x\n"), 6_000),
    "text of many escapes": (repeated('default_budget: "', "\\n", '"'), 20_000),
    "comments": (repeated("budgets: {}\n", "# x\n"), 12_000),
    # variables
    "many dollars": (repeated("budgets: {a: {max_steps: '", "$$", "'}}"), 20_000),
    "many beginnings of variables": (repeated("budgets: {a: {max_steps: '", "${", "'}}"), 20_000),
    # structure
    "one name many times": (repeated("budgets:\n", "  a: {max_steps: 1}\n"), 1_200),
    "a long list": (repeated("budgets: {a: {thresholds: [", "50%,", "1]}}"), 1_000),
    "a list of lists": (repeated("budgets: {a: {thresholds: [", "[],", "1]}}"), 1_200),
    "quotas with names": (listed("quotas: {org: [", "{steps: 1, name: n#},", "]}"), 800),
    "quotas with one name": (listed("quotas: {org: [", "{steps: 1, name: n},", "]}"), 1_200),
    "patterns": (listed("quotas: {users: {", "'u#*': [],", "}}"), 500),
    "prices of patterns": (listed("prices: {", "'u#*': {input: 1},", "}"), 200),
    "values of a tag": (listed("quotas: {tags: {team: {", "v#: [],", "}}}"), 500),
    "anchors": (listed("tenants:\n", "  t#: &t# {org: a}\n"), 300),
    "an opened list": (repeated("budgets: ", "[\n"), 40_000),
    "an opened mapping": (repeated("budgets: ", "{a: \n"), 40_000),
    "names without an end": (repeated("{", "a "), 12_000),
}  # fmt: skip


def seconds(text: str) -> float:
    before = time.process_time()
    refusal(text)
    return time.process_time() - before


@pytest.mark.parametrize("full_of", FILES)
def test_four_times_the_file_takes_about_four_times_as_long(full_of: str) -> None:
    make, n = FILES[full_of]
    texts = make(n), make(4 * n)
    times = []
    for _ in range(5):  # what else runs here disturbs some of them
        short, long = map(seconds, texts)
        times.append(long / max(short, 0.002))
        if times[-1] < MOST_TIMES:
            return
    pytest.fail(f"took {times} times as long")


def test_what_was_meant_is_looked_for_as_long_as_anybody_reads_it() -> None:
    names = numbered("  budget#: {}\n", 30_000)
    first, *others = refusal(f"budgets:\n{names}agents:\n{numbered('  a#: budgett#' + chr(10), 900)}")
    assert first.message == "'budgett0' is not the name of a budget; did you mean 'budget0'?"
    assert others[-1].message == "'budgett899' is not the name of a budget"


def test_what_there_is_is_not_listed_again_and_again() -> None:
    names = numbered(f"  {'x' * 190}#: {{}}\n", 20)
    problems = refusal(f"budgets:\n{names}agents:\n{numbered('  a#: y#' + chr(10), 900)}")
    assert len(problems) == 900
    assert sum(len(problem.message) for problem in problems) < 400_000


def test_a_message_shows_no_more_of_a_long_text_than_its_beginning() -> None:
    for text in ("y" * 4_000, "${" + "y" * 4_000, "1" * 4_000 + "m", "0" * 4_000, "-" + "1" * 4_000):
        assert all(len(problem.message) < 300 for problem in refusal(f"budgets: {{a: {{max_steps: '{text}'}}}}"))
