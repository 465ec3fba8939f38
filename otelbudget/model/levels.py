"""Levels: who can have quotas. The one table of them; everything else reads it.

To add a level: a row here and a field in `Quotas`; the YAML, its schema and ``otelbudget explain`` follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from otelbudget.model.names import undated

if TYPE_CHECKING:
    from otelbudget.model.quota import Quotas

Found = Iterable[tuple[str, ...]]


class Who(Protocol):
    """Who asks, as far as quotas can name it."""

    org: str
    tenant: str
    user: str | None
    agent: str | None
    conversation: str | None
    tags: tuple[tuple[str, str], ...]


class Level(NamedTuple):
    """One kind of owner of quotas.

    Attributes:
        scope: What denials call it.
        fields: What names one of them, the widest first.
        about: What stands in the field of `Quotas`, in words for editors; empty where there are no names.
        shown: Its quotas are gauges; else they are only counted over a ratio.
        per_run: Whether a quota may be per run.
        nested: Names have values, and those have the quotas.
        found: Gives the names of those that a call is counted on, where they are not just who calls.
    """

    scope: str
    fields: tuple[str, ...]
    about: str = ""
    shown: bool = True
    per_run: bool = False
    nested: bool = False
    found: Callable[[Quotas, Who, str | None], Found] | None = None

    def named(self, quotas: Quotas, who: Who, model: str | None) -> Found:
        """The names of those that a call of *who* for *model* is counted on."""
        if self.found is not None:
            return self.found(quotas, who, model)
        names = tuple(getattr(who, field) for field in self.fields)
        return () if None in names else (names,)


class Where(NamedTuple):
    """Whose account it is: a level and its names, as `Level.fields` has them."""

    scope: str
    names: tuple[str, ...]

    def get(self, field: str) -> str:
        """The name of one field; empty where it does not apply."""
        fields = LEVELS[self.scope].fields
        return self.names[fields.index(field)] if field in fields else ""


def _model(quotas: Quotas, who: Who, model: str | None) -> Found:
    path = quotas.found("models", model, undated(model))[0] if model is not None and quotas.models else None
    return () if path is None else ((who.org, path[-1]),)


def _tags(_: Quotas, who: Who, __: str | None) -> Found:
    return ((who.org, *tag) for tag in who.tags)


_LEVELS: Final = (
    Level("org", ("org",)),
    Level("tenant", ("org", "tenant"), "Tenant or pattern -> its quotas, in place of `default`.", per_run=True),
    Level(
        "user",
        ("org", "tenant", "user"),
        'User or pattern -> quotas of each such user; "*" is every user.',
        per_run=True,
        shown=False,
    ),
    Level("model", ("org", "model"), "Model or pattern -> quotas of each organisation.", found=_model),
    Level("agent", ("org", "tenant", "agent"), "Agent or pattern -> quotas of each such agent of each tenant."),
    Level(
        "conversation",
        ("org", "tenant", "conversation"),
        'Conversation or pattern -> quotas of each; "*" is every one.',
        shown=False,
    ),
    Level(
        "tag",
        ("org", "tag", "value"),
        "Tag -> value or pattern -> quotas of each such value.",
        nested=True,
        found=_tags,
    ),
)
#: By scope, in the order in which they are asked.
LEVELS: Final = {level.scope: level for level in _LEVELS}
#: By the field of `Quotas` that names some: those that have one.
NAMED: Final = {f"{level.scope}s": level for level in _LEVELS if level.about}
