"""Levels: who can have quotas. The one table of them; everything else reads it.

To add a level: a row here and a field in `Quotas`; the YAML, its schema and ``otelbudget explain`` follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from otelbudget.model.names import undated

if TYPE_CHECKING:
    from otelbudget.model.quota import Quotas

Found = Iterator[tuple[str, ...]]
Of = Callable[["Quotas", "Who", "str | None"], Found]


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
        of: The names of those that a call is counted on.
        about: What stands in the field of `Quotas`, in words for editors; empty where there are no names.
        shown: Its quotas are gauges; else they are only counted over a ratio.
        per_run: Whether a quota may be per run.
        nested: Names have values, and those have the quotas.
    """

    scope: str
    fields: tuple[str, ...]
    of: Of
    about: str = ""
    shown: bool = True
    per_run: bool = False
    nested: bool = False


class Where(NamedTuple):
    """Whose account it is: a level and its names, as `Level.fields` has them."""

    scope: str
    names: tuple[str, ...]

    def get(self, field: str) -> str:
        """The name of one field; empty where it does not apply."""
        fields = LEVELS[self.scope].fields
        return self.names[fields.index(field)] if field in fields else ""


def _org(_: Quotas, who: Who, __: str | None) -> Found:
    yield (who.org,)


def _tenant(_: Quotas, who: Who, __: str | None) -> Found:
    yield who.org, who.tenant


def _model(quotas: Quotas, who: Who, model: str | None) -> Found:
    path = quotas.found("models", model, undated(model))[0] if model is not None and quotas.models else None
    if path is not None:
        yield who.org, path[-1]


def _of_tenant(scope: str) -> Of:
    """Of what each tenant has several of."""

    def of(quotas: Quotas, who: Who, _: str | None) -> Found:
        name = getattr(who, scope)
        if name is not None and getattr(quotas, f"{scope}s"):
            yield who.org, who.tenant, name

    return of


def _tags(quotas: Quotas, who: Who, _: str | None) -> Found:
    for name, value in who.tags if quotas.tags else ():
        yield who.org, name, value


_LEVELS: Final = (
    Level("org", ("org",), _org),
    Level(
        "tenant", ("org", "tenant"), _tenant, "Tenant or pattern -> its quotas, in place of `default`.", per_run=True
    ),
    Level(
        "user",
        ("org", "tenant", "user"),
        _of_tenant("user"),
        'User or pattern -> quotas of each such user; "*" is every user.',
        per_run=True,
        shown=False,
    ),
    Level("model", ("org", "model"), _model, "Model or pattern -> quotas of each organisation."),
    Level(
        "agent",
        ("org", "tenant", "agent"),
        _of_tenant("agent"),
        "Agent or pattern -> quotas of each such agent of each tenant.",
    ),
    Level(
        "conversation",
        ("org", "tenant", "conversation"),
        _of_tenant("conversation"),
        'Conversation or pattern -> quotas of each; "*" is every one.',
        shown=False,
    ),
    Level("tag", ("org", "tag", "value"), _tags, "Tag -> value or pattern -> quotas of each such value.", nested=True),
)
#: By scope, in the order in which they are asked.
LEVELS: Final = {level.scope: level for level in _LEVELS}
#: By the field of `Quotas` that names some: those that have one.
NAMED: Final = {f"{level.scope}s": level for level in _LEVELS if level.about}
