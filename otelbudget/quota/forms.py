"""The forms in which a quota is given: tokens per day as a number, a `Quota`, or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from otelbudget.errors import ConfigError
from otelbudget.model.amounts import TOKENS, UNLIMITED
from otelbudget.model.quota import Quota

if TYPE_CHECKING:
    from otelbudget.engine.owner import Owner

__all__ = ["QuotaLike", "daily_of", "listed"]

QuotaLike = int | Quota | Iterable[Quota]


def listed(given: QuotaLike, daily: Quota) -> tuple[Quota, ...]:
    """The quotas that *given* means: a number is *daily* with so many tokens.

    One that does not say what it keeps for whom keeps what *daily* keeps.

    Raises:
        ConfigError: It is none, or a quota per run.
    """
    if isinstance(given, Quota):
        quotas: tuple[Any, ...] = (given,)
    elif isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping):
        quotas = tuple(given)
    else:
        number: Any = given  # the quota says what is wrong with anything else
        return (replace(daily, tokens=number),)
    for one in quotas:
        if not isinstance(one, Quota):
            raise ConfigError(f"a list of quotas holds Quota(...) only, got {one!r} ({type(one).__name__})")
        if one.per == "run":
            raise ConfigError("a quota per run binds runs, not a service: put it into the manager's configuration")
    return tuple(replace(one, reserve_for=daily.reserve_for) if one.reserve_for is None else one for one in quotas)


def daily_of(owner: Owner, otherwise: Quota) -> Quota:
    """The quota that limits the tokens of *owner*'s tenant per day; *otherwise* if none does."""
    own = (book.quota for book in owner.books if book.where.scope == "tenant")
    return next((one for one in own if one.per == "day" and one.limits[TOKENS] < UNLIMITED), otherwise)
