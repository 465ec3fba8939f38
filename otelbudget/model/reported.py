"""What somebody says that a call used, in whatever names: one reader, and one rule of parts and wholes.

Nothing here raises: a value that makes no sense is taken as absent, and what is absent is unknown, which is not zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, Final

from otelbudget.model.amounts import nanousd, usd
from otelbudget.model.usage_names import (
    CACHED,
    COST,
    ID,
    KINDS,
    MADE,
    MODEL,
    OWN_IDS,
    PAID_ONCE,
    PLACES,
    QUERIES,
    REASONING,
    REQUESTS,
    ROOTS,
    SEEN,
    TIER,
    TRAFFIC,
    TRAFFIC_TIERS,
    Names,
)

#: No call has that many tokens; sums of a few such numbers are still amounts.
_TOO_MANY: Final = 2**50
#: The first spares most the second, which takes long to tell.
_MAPPINGS: Final = (dict, Mapping)
#: What an entry of such a list has its tokens under.
_IN_LIST: Final = ("tokenCount", "token_count", "tokens", "inputTokens")
#: Fields of `Usage` that OpenAI's Responses don't tell -> what they show for each.
_HOSTED: Final = {"file_searches": "file_search_call", "images": "image_generation_call"}
#: Work of Anthropic's own that the totals of a message leave out.
_BESIDE: Final = ("compaction", "advisor_message")


def get(holder: object, name: str) -> Any:
    """What *holder*, a mapping or an object, has under *name*, or None."""
    try:
        return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
    except Exception:  # noqa: BLE001  a property of somebody else's
        return None


def at(holder: object, path: str) -> Any:
    """What is at *path*, or None; in a list a step is a number, Gemini's name of a modality or Bedrock's of a time."""
    steps = _steps(path)
    try:
        if isinstance(holder, _MAPPINGS) and steps[0] not in holder:
            return holder.get(path)
        for step in steps:  # without a call for each: an answer is asked for some forty paths
            if holder is None:
                return None
            if isinstance(holder, _MAPPINGS):
                holder = holder.get(step)
            elif isinstance(holder, list | tuple):
                holder = _of_list(holder, step)
            else:
                holder = getattr(holder, step, None)
    except Exception:  # noqa: BLE001  a property of somebody else's
        return None
    return holder


@cache
def _steps(path: str) -> tuple[str, ...]:
    return tuple(path.split("."))


def _of_list(values: Sequence[object], step: str) -> Any:
    if step.isdigit():
        return values[int(step)] if int(step) < len(values) else None
    for one in values:
        name = get(one, "modality") or get(one, "ttl")
        if getattr(name, "value", name) == step:
            return next((n for key in _IN_LIST if (n := get(one, key)) is not None), None)
    return 0 if values else None


def count(value: object) -> int | None:
    """*value* if it is a number of tokens, else None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < _TOO_MANY else None


def cost_of(value: object) -> Decimal | None:
    """The amount of USD that a response reports, as a number or in a header; None if it is no amount."""
    if value is None:
        return None
    try:
        return usd(nanousd("cost", Decimal(value) if isinstance(value, str) else value))
    except (ValueError, ArithmeticError):
        return None


def text(holder: object, *paths: str) -> str | None:
    """The first text that is at one of *paths*, or None."""
    for path in paths:
        value = at(holder, path)
        if isinstance(value, str) and value:
            return value
    return None


def usage_in(answer: object) -> tuple[object, Names | None]:
    """Where *answer* has its usage, and the kind of it; None if it has none that can be read."""
    for path in (*PLACES, ""):
        place = at(answer, path) if path else answer
        if place is None or (isinstance(place, _MAPPINGS) and ROOTS.isdisjoint(place)):
            continue
        for kind in KINDS:
            if _first(place, kind.marks or (*kind.input, *kind.output)) is not None:
                return place, kind
    return None, None


def part_of(event: object) -> dict[str, Any]:
    """What an event of a stream says about the whole answer, in the names that `fields_of` reads."""
    return {
        "model": text(event, *MODEL),
        "id": text(event, *ID),
        "service_tier": _tier(event),
        "usage": usage_in(event)[0],
        "searches": _searches(event),
        **{name: len(_shown(event, kind)) for name, kind in _HOSTED.items()},
    }


def fields_of(answer: object) -> dict[str, Any] | None:
    """What `Usage` needs to be told of *answer*; None if it says nothing, or that it was nothing: then nobody
    counts."""
    if (of_all := _of_all_prompts(answer)) is not None:
        return of_all
    place, kind = usage_in(answer)
    found = {} if kind is None else tokens_in(place, kind)
    for one in [one for one in _all(place, "iterations") if get(one, "type") in _BESIDE]:
        for name, tokens in tokens_in(one, kind or KINDS[0]).items():
            if name in found or name in CACHED:
                found[name] = found.get(name, 0) + tokens
    if not (found.get("input_tokens") or found.get("output_tokens") or found.get("tokens")):
        return None
    found["searches"] = found.get("searches") or count(at(answer, "searches")) or _searches(answer)
    for field, kind_shown in _HOSTED.items():
        found[field] = count(at(answer, field)) or len(_shown(answer, kind_shown))
    name = text(answer, *ID) or ""
    return found | {
        "model": text(answer, *MODEL),
        "response_id": None if name.startswith(OWN_IDS) else name or None,
        "tier": _tier(answer),
        "reported_cost_usd": next((cost for path in COST if (cost := cost_of(at(place, path))) is not None), None),
    }


def _searches(answer: object) -> int:
    """Searches of the provider's that *answer* shows, of those whose usages leave them out."""
    shown = _shown(answer, "web_search_call")
    queries = sum(len(_all(one, *QUERIES)) for one in _all(answer, "candidates"))
    if queries > 1 and (text(answer, *MODEL) or "").startswith(PAID_ONCE):
        queries = 1
    told = max(count(at(answer, path)) or 0 for path in REQUESTS)
    return queries + max(told, sum(at(one, "action.type") in (None, "search") for one in shown))


def _shown(answer: object, kind: str) -> list[Any]:
    return [one for one in _all(answer, "output", "response.output") if at(one, "type") == kind]


def _tier(answer: object) -> str | None:
    return text(answer, *TIER) or TRAFFIC_TIERS.get(text(answer, *TRAFFIC) or "")


def _of_all_prompts(answer: object) -> dict[str, Any] | None:
    """What a result of LangChain's tells, which has a list of generations for each prompt, the first of which knows."""
    first, *others = [fields_of(at(one, "0")) for one in _all(answer, "generations")] or [None]
    if first is None or None in others:
        return None
    for other in filter(None, others):
        first |= {name: first.get(name, 0) + value for name, value in other.items() if type(value) is int}
    return first


def _all(holder: object, *paths: str) -> list[Any]:
    """What the first list at one of *paths* has."""
    return next((found for path in paths if isinstance(found := at(holder, path), list)), [])


def tokens_in(place: object, names: Names) -> dict[str, Any]:
    """The tokens that *place* tells of: wholes with all their parts, or the total alone; empty if it tells of none."""
    given, made, total = (_first(place, paths) for paths in (names.input, names.output, names.total))
    told = {field: _greatest(place, paths) for field, paths in names.parts.items()}
    parts = {field: tokens for field, tokens in told.items() if tokens is not None}
    cached, reasoning = sum(parts.get(name, 0) for name in CACHED), parts.get(REASONING, 0)
    more = _greatest(place, names.more_output) or 0
    if given is not None:
        given += _greatest(place, names.more_input) or 0
        given = given + cached if names.apart else whole(given, cached)
        given = whole(given, max(parts.get(name, 0) for name in SEEN))
    if made is not None or more:
        made = whole((made or 0) + more, reasoning)
        made = whole(made, max(parts.get(name, 0) for name in MADE))
    if total is not None:
        given, made = _completed(given, made, total, cached, reasoning)
    if given is None and made is None:
        return {} if total is None else {"tokens": total, **parts}
    wholes = {"input_tokens": given, "output_tokens": made}
    return {name: tokens for name, tokens in wholes.items() if tokens is not None} | parts


def whole(said: int, parts: int) -> int:
    """*said* with its parts: a part above its whole proves that the whole leaves it out."""
    return said + parts if parts > said else said


def _completed(
    given: int | None, made: int | None, total: int, cached: int, reasoning: int
) -> tuple[int | None, int | None]:
    """Input and output by what the total proves: one of them that was not told, or cached input, reasoning or both that
    were left out of it."""
    if given is None:
        return (total - made if made is not None and total > made else None), made
    left = total - given - (made or 0)
    if left < 0:
        return given, made
    if made is not None and left in (cached, cached + reasoning):
        return given + cached, made + left - cached
    return given, (made or 0) + left


def _first(place: object, paths: tuple[str, ...]) -> int | None:
    for path in paths:
        value = at(place, path)
        if value is not None and (tokens := count(value)) is not None:
            return tokens
    return None


def _greatest(place: object, paths: tuple[str, ...]) -> int | None:
    """None if nobody says."""
    most = None
    for path in paths:
        if "+" in path:
            value: object = sum(_greatest(place, (one,)) or 0 for one in path.split("+")) or None
        else:
            value = at(place, path)
        if value is not None and (tokens := count(value)) is not None:
            most = max(most or 0, tokens)
    return most
