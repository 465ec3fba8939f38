"""Who pays: organisation, tenant, user, agent, conversation, tags, priority; and the accounts that follow from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otelbudget.ledger.account import QuotaAccount
from otelbudget.model.levels import Where
from otelbudget.model.quota import PRIORITIES, Quota

if TYPE_CHECKING:
    from otelbudget.engine.directory import Directory

#: The organisation and the tenant of a run that names none.
DEFAULT: Final = "default"
#: Characters of a tenant's name that is not said in code, at most: it becomes a label, and baggage may be anybody's.
LONGEST: Final = 200
_MOST_TAGS: Final = 8
Tags = tuple[tuple[str, str], ...]


class Names(NamedTuple):
    """What an owner is called; None where nothing says. Tags are (name, value), sorted."""

    org: str | None = None
    tenant: str | None = None
    user: str | None = None
    agent: str | None = None
    conversation: str | None = None
    tags: Tags = ()
    priority: str | None = None


NOBODY: Final = Names()


class Payers(NamedTuple):
    """The accounts of now that quotas put in the way of a request, widest scope first; and what each root run has on
    its own. That holds from *start_s* to *end_s* (Unix seconds) and under the rules of *generation*."""

    accounts: tuple[QuotaAccount, ...]
    per_run: tuple[tuple[Where, Quota], ...]
    start_s: float
    end_s: float
    generation: int


class Owner:
    """Whose a run or a request is: *known* if a tenant was named, or need not be. All that are the same share one."""

    def __init__(self, directory: Directory, names: Names, *, known: bool) -> None:
        self._directory = directory
        self._found: dict[str | None, Payers] = {}
        self.names = names
        self.org: str = names.org or DEFAULT
        self.tenant: str = names.tenant or DEFAULT
        self.user = names.user
        self.agent = names.agent
        self.conversation = names.conversation
        self.tags = names.tags
        self.priority: str = names.priority or "normal"
        self.level = PRIORITIES.index(self.priority)
        self.known = known

    def includes(self, other: Owner) -> bool:
        """Whether the quotas of this one are charged for all that *other* spends."""
        same = (self._directory, self.org, self.tenant) == (other._directory, other.org, other.tenant)
        return same and self.user in (None, other.user)

    def payers(self, model: str | None = None) -> Payers:
        """What a request of *model*, made now, counts on beside runs."""
        directory = self._directory
        if not directory.by_model:
            model = None
        found = self._found.get(model)
        if (
            found is not None
            and found.generation == directory.generation
            and (not found.accounts or found.start_s <= directory.clock_s() < found.end_s)
        ):
            return found
        return directory.resolve(self, model, self._found)

    def inside(self, agent: str | None, conversation: str | None) -> Owner:
        """The same in the span of an agent, or of a conversation, where a quota names some."""
        names = self.names._replace(agent=agent or self.agent, conversation=self.conversation or conversation)
        return self if names == self.names else self._directory.owner(names, known=self.known)


def tags_of(given: Any) -> Tags:
    """``{"team": "search"}`` as `Names` have it; TypeError or ValueError if it is no tags, or more than 8."""
    if given is None:
        return ()
    if not isinstance(given, dict) or not all(isinstance(t, str) for pair in given.items() for t in pair):
        raise TypeError(f"tags must map names to values, {{'team': 'search'}}, got {given!r}")
    if len(given) > _MOST_TAGS:
        raise ValueError(f"a run has at most {_MOST_TAGS} tags, got {len(given)}")
    if not all(name and value for name, value in given.items()):
        raise ValueError(f"a tag has a name and a value that are not empty, got {given!r}")
    return tuple(sorted(given.items()))
