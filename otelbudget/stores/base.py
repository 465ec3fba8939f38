"""What every store promises: the values that go to and fro, the `Store` protocol, and the one rule of admission.

A store keeps what accounts have used and what is held on them, for all who share it. Limits come with each request,
so a store knows no quotas. To add one: write the protocol below in a module of its own, beside `sqlite`, and put it
into ``STORES`` of ``tests/stores/store_kit.py``, whose suite proves every rule.

- **A trip is atomic** over all its lines and resources. A retry with the same id changes nothing more.
- **Lines** name an account in a window. A reserve and a record are for the windows that the store's clock is in; a hold
  stays in those of its reserve, whatever its later trips do. All trips of one hold name the same lines, in one order.
- **A hold ends once**: settled, or expired `ttl_s` and `GRACE_S` after its last reserve or renewal. Reserves and reads
  reclaim up to `RECLAIMED` expired holds of their shard, the longest overdue first, never the one that they are about.
  Until then it can be settled, resized and renewed like any other.
- **An ended id stays as a mark** for `MARK_S` of the store's clock, `KEYED_MARK_S` if it has a digest, perhaps longer.
- **A key**: of an id with a digest, what is settled for nothing expires, at no charge. What has expired is held anew by
  the next new hold, and what is open lives on unchanged.
- **Rolling windows** are counted in 60 buckets, by `windows.bucket`. All that lies in the window or ahead of it counts:
  what was charged while the clock was ahead, until that has left the window, and what an advanced clock left behind,
  once it is set back. So a clock that steps, back or forth and however far, forgets nothing.
- **Ended windows** stay for `KEPT_S`; a clock that jumps ahead doesn't make that shorter.
- **No sum is wrong** below 2^53. Above that one may stop, where it is above every limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from otelbudget.errors import BudgetError
from otelbudget.model.amounts import UNLIMITED
from otelbudget.model.vector import lane
from otelbudget.stores.records import RunRecord

# In seconds: what a hold lives beyond its time; how long ended ids, those with a key, and ended windows are kept.
GRACE_S: Final = 5.0
MARK_S: Final = 3_600.0
KEYED_MARK_S: Final = 86_400.0
KEPT_S: Final = 86_400.0
# At most: how many expired holds one reserve or read reclaims, and how many accounts `Store.accounts` gives.
RECLAIMED: Final = 20
PAGE: Final = 100
#: The end of a lifetime, which begins at 0.
FOREVER_S: Final = 2**53 - 1

#: (used, taken) of one account, vectors that `model.vector.pack` makes of amounts; taken is used and held.
State = tuple[int, int]


class WrongWindow(BudgetError):
    """The store's clock says *now_s*, which a line's window is not of; nothing was changed."""

    def __init__(self, now_s: float) -> None:
        super().__init__(now_s)
        self.now_s = now_s


class Line(NamedTuple):
    """One account in one window, and what this request may use of it at most.

    Attributes:
        key: Whose account, counted in which kind of window; unique in its shard.
        start_s, end_s: The window in Unix seconds, the end excluded; of a rolling one only the difference counts.
        rolling: Whether it is the time up to now.
        limits: Of each of `RESOURCES`, for this request's priority: the least of all rules on the account; -1 is none.
    """

    key: str
    start_s: int
    end_s: int
    rolling: bool
    limits: tuple[int, ...]


class Reserve(NamedTuple):
    """Make hold *id* exactly *amounts*: a new one, or another size of one that is open.

    Attributes:
        id: The same for a request that is sent again.
        shard: What is kept together; accounts and ids of other shards are others.
        lines: From the widest scope to the narrowest.
        amounts: What it shall hold, of each of `RESOURCES`.
        held: What it holds as far as the caller knows; nothing for a new one.
        on_expiry: What is charged if it expires.
        ttl_s: How long it lives without being renewed.
        digest: Of the payload, if *id* comes from an idempotency key, see `keyed`; else empty.
    """

    id: str
    shard: str
    lines: tuple[Line, ...]
    amounts: tuple[int, ...]
    held: tuple[int, ...]
    on_expiry: tuple[int, ...]
    ttl_s: float
    digest: str = ""


class Settle(NamedTuple):
    """End hold *id* and charge *actual*, nothing for a release; or record *actual*, where nothing was held.

    Attributes:
        id: That of the hold, or a new one for a record. A commit after a release comes as ``<id>:late``.
        lines: Those of the hold; of a record, the windows of now.
        held: What the hold held; nothing tells a record.
        on_expiry: What expiry charged, for a store that does not keep it.
        digest: Of the payload of the hold or record, if it has an idempotency key; else empty.
    """

    id: str
    shard: str
    lines: tuple[Line, ...]
    held: tuple[int, ...]
    actual: tuple[int, ...]
    on_expiry: tuple[int, ...]
    digest: str = ""


class Answer(NamedTuple):
    """What became of a reserve, or what a read saw.

    Attributes:
        refused: The line that refused; None if none did.
        resource: What it refused, an index into `RESOURCES`; -1 if nothing.
        busy: Only open holds of others are in the way.
        gone: The hold is not open any more, so nothing was changed.
        states: Of each line, after the trip.
        revision: Grows with every change of the shard's overrides.
        now_s: The store's clock.
        replayed: Somebody else holds it open, under the same key; nothing was changed.
    """

    refused: int | None
    resource: int
    busy: bool
    gone: bool
    states: tuple[State, ...]
    revision: int
    now_s: float
    replayed: bool = False


class Settled(NamedTuple):
    """What became of a settle.

    Attributes:
        was: ``open`` and ``unknown`` are charged in full, ``expired`` above its on_expiry, ``settled`` not at all.
        used: By each line, after the trip; a vector.
        now_s: The store's clock.
        since: What each line had used when this process was told last, if that is less than before this trip.
        replayed: Somebody else has settled it, under the same key.
    """

    was: Literal["open", "expired", "unknown", "settled"]
    used: tuple[int, ...]
    now_s: float
    since: tuple[int, ...] | None = None
    replayed: bool = False


class Override(NamedTuple):
    """Rules that replace configured ones until they are removed; a store keeps the text as it is."""

    rules: str


@dataclass(frozen=True, slots=True)
class Reset:
    """Forget what one account has used in the window of now, and in a rolling one; what is held stays held."""


class Stored(NamedTuple):
    """An account in the window of now, as it is stored; a rolling one goes from 0 to its length."""

    key: str
    start_s: int
    end_s: int
    rolling: bool
    used: tuple[int, ...]
    taken: tuple[int, ...]


class Store(Protocol):
    """Where accounts live that are shared; *name* is what metrics call it.

    Every method may raise StoreError: the store can't be reached or did not answer in time, and whether the trip has
    happened is unknown, so the same id is sent again.
    """

    name: str

    def reserve(self, asked: Reserve) -> Answer:
        """Hold what is asked on every line, or change nothing.

        Raises:
            WrongWindow: It is a new hold, and a line is not in the window of now; or its key has one on other lines.
            IdempotencyError: The id was used with another digest.
        """

    def settle(self, ended: Settle) -> Settled:
        """End a hold or record; never refused for what it charges, and done once per id.

        Raises:
            WrongWindow: It is a record that charges something, and a line is not in the window of now.
            IdempotencyError: The id was used with another digest.
        """

    def read(self, shard: str, lines: tuple[Line, ...]) -> Answer:
        """What *lines* have used and taken; refuses nothing."""

    def renew(self, shard: str, ids: Sequence[str], ttl_s: float) -> None:
        """Let those of *ids* that are open live *ttl_s* from now."""

    def configure(self, shard: str, key: str, change: Override | Reset | None) -> None:
        """Store rules under *key*, or remove them (None); or reset the account *key*."""

    def overrides(self, shard: str) -> Mapping[str, Override]:
        """All rules that are stored for *shard*."""

    def accounts(self, shard: str, after: str = "") -> Sequence[Stored]:
        """Up to `PAGE` accounts in the window of now, by key, whose key is above *after*.

        Those that have used nothing and on which nothing is held may be left out.
        """

    def run(self, shard: str, run_id: str, record: RunRecord | None = None) -> RunRecord | None:
        """The record of a shared run once *record* is `written`, if that is given; None if there is none."""

    def close(self) -> None:
        """Let go of files and sockets; every later call raises StoreError."""

    async def areserve(self, asked: Reserve) -> Answer:
        """`reserve` for coroutines, whose trips of one loop happen in the order of their calls.

        Cancelled, it may happen all the same, so what it may hold is released.
        """

    async def asettle(self, ended: Settle) -> Settled:
        """`settle` for coroutines."""

    async def aread(self, shard: str, lines: tuple[Line, ...]) -> Answer:
        """`read` for coroutines."""


class Refusal(NamedTuple):
    """Which line refuses which resource, and whether only open holds of others are in the way."""

    line: int
    resource: int
    busy: bool


def judge(states: Sequence[State], lines: Sequence[Line], more: Sequence[int], own: Sequence[int]) -> Refusal | None:
    """Whether *more* fits on every line, as the one rule of admission says: used + held + more <= limit.

    Args:
        states: (used, taken) of each line.
        more: What is asked on top, of each of `RESOURCES`; nothing and less than nothing always pass.
        own: What the hold that asks holds already, which no waiting for others frees.

    Returns:
        None if it fits; else the first line that refuses whatever others give back, or if there is none, the first that
        is busy.
    """
    busy = None
    asks = [(i, amount) for i, amount in enumerate(more) if amount > 0]
    for at, ((used, taken), line) in enumerate(zip(states, lines, strict=True)):
        for i, amount in asks:
            limit = line.limits[i] if line.limits[i] >= 0 else UNLIMITED
            if lane(taken, i) + amount > limit:
                if lane(used, i) + own[i] + amount > limit:
                    return Refusal(at, i, busy=False)
                busy = busy or Refusal(at, i, busy=True)
    return busy
