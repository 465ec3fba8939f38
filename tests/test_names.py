"""Which rule a name falls under: itself, then the first pattern; a model also without its date."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from otelbudget.model.names import is_pattern, matching, undated


@pytest.mark.parametrize("name", ["*", "acme-*", "gpt-?o", "gpt-[45]", "a*b"])
def test_a_name_with_a_wildcard_is_a_pattern(name: str) -> None:
    assert is_pattern(name)


@pytest.mark.parametrize("name", ["", "acme", "gpt-4o-2024-08-06", "a]b", "a.b+c", "{a}"])
def test_any_other_name_is_itself(name: str) -> None:
    assert not is_pattern(name)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("acme-eu", "acme-eu"),  # exact, although patterns before it match too
        ("acme-us", "acme-*"),  # the first pattern, although a later one is closer
        ("acme-*", "acme-*"),
        ("globex", "glob??"),
        ("Globex", None),  # names are told apart by case
        ("acme", None),
        ("", None),
    ],
)
def test_a_name_is_matched_exactly_and_then_by_patterns_in_their_order(name: str, found: str | None) -> None:
    known = ("acme-*", "acme-us*", "glob??", "acme-eu")
    assert matching(known, name) == found
    assert matching(dict.fromkeys(known), name) == found
    assert matching(MappingProxyType(dict.fromkeys(known)), name) == found


def test_nothing_is_found_among_nothing() -> None:
    assert matching((), "acme") is None
    assert matching(("acme",)) is None


def test_of_several_names_any_exact_one_is_found_before_a_pattern() -> None:
    assert matching(("gpt-*", "gpt-4o"), "gpt-4o-2024-08-06", "gpt-4o") == "gpt-4o"
    assert matching(("gpt-4o", "gpt-4o-2024-08-06"), "gpt-4o-2024-08-06", "gpt-4o") == "gpt-4o-2024-08-06"
    assert matching(("gpt-4?",), "gpt-4o-2024-08-06", "gpt-4o") == "gpt-4?"


def test_signs_that_mean_something_elsewhere_mean_themselves() -> None:
    assert matching(("a.c*",), "abcd") is None
    assert matching(("a.c*",), "a.cd") == "a.c*"
    assert matching(("*",), "line\nbreak") == "*"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet"),
        ("claude-3-5-sonnet@20240620", "claude-3-5-sonnet"),
        ("gpt-4o", "gpt-4o"),
        ("gpt-4-0613", "gpt-4-0613"),
        ("2024-08-06", "2024-08-06"),
        ("gpt-4o-2024-08-06-preview", "gpt-4o-2024-08-06-preview"),
        ("gpt-4o-2024-08-06\n", "gpt-4o-2024-08-06\n"),
        ("", ""),
    ],
)
def test_a_model_without_its_date_is_its_family(model: str, name: str) -> None:
    assert undated(model) == name
