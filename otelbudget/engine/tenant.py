"""Whose a run is that does not say so itself: what spans around it, or baggage, are trusted to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import baggage

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from otelbudget.config import TenantFrom

__all__ = ["tenant_said"]

#: Characters of a name, at most: it becomes a label, and who sends baggage may be anybody.
LONGEST: Final = 200


def tenant_said(
    source: TenantFrom, spans: Iterable[Any], contexts: Iterable[Context], warn: Callable[..., None]
) -> str | None:
    """The tenant that *source* finds; None if nothing says, or what says so is no name.

    Args:
        source: Which span attribute and which entry of the baggage are trusted.
        spans: Those around the run, innermost first.
        contexts: Where baggage is looked for.
        warn: Called with a key, a message and its arguments if something that is said is no name.
    """
    if source.span_attribute is not None:
        for span in spans:
            said = (getattr(span, "attributes", None) or {}).get(source.span_attribute)
            if said is not None and (name := _name(said, f"span attribute {source.span_attribute!r}", warn)):
                return name
    if source.baggage is not None:
        for context in contexts:
            said = baggage.get_baggage(source.baggage, context)
            if said is not None and (name := _name(said, f"baggage {source.baggage!r}", warn)):
                return name
    return None


def _name(said: object, where: str, warn: Callable[..., None]) -> str | None:
    name = str(said) if isinstance(said, int) and not isinstance(said, bool) else said
    if isinstance(name, str):
        name = name.strip()
        if 0 < len(name) <= LONGEST and name.isprintable():
            return name
    warn(
        "tenant_from",
        "tenant_from: a %s was ignored, since it is no name of 1 to %d printable characters; such runs belong to"
        " whoever is asked next, in the end to the default tenant",
        where,
        LONGEST,
    )
    return None
