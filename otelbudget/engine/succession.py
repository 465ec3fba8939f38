"""Which quota goes on counting where another one left off, when the configuration changes. Pure.

A quota's account counts every resource, whatever it limits. So what was used in a window is known for each quota of the
same scope and window, also for one that is new, has another name, or limits something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from otelbudget.model.amounts import RESOURCES, UNLIMITED

if TYPE_CHECKING:
    from otelbudget.model.quota import Quota, Quotas
    from otelbudget.model.windows import WindowSpec

__all__ = ["closest", "restarts"]


def closest(quota: Quota, others: Sequence[Quota]) -> int | None:
    """Which of *others* comes closest to *quota*: the one of its name, else the one that limits most of the same.

    None if none has its name or limits anything that it limits.
    """
    mine = _limited(quota)
    likeness = [(o.name == quota.name, _limited(o) == mine, len(_limited(o) & mine)) for o in others]
    best = max(range(len(others)), key=likeness.__getitem__, default=None)
    return best if best is not None and any(likeness[best]) else None


def restarts(before: Quotas, now: Quotas) -> Iterator[str]:
    """Of each quota that is counted in other windows than before, and so starts anew, a sentence that says so."""
    for where, old, new in _lists(before, now):
        kept = {one.window for one in new}
        gone = [one for one in old if one.window not in kept and one.per != "run"]
        for quota in new:
            if quota.per == "run" or any(one.window == quota.window for one in old):
                continue
            found = closest(quota, gone)
            if found is not None:
                yield (
                    f"{where}: quota {quota.name!r} is counted {_spelled(quota.window)} now and was"
                    f" {_spelled(gone[found].window)}: it starts anew, and what was used before does not count"
                )


def _lists(before: Quotas, now: Quotas) -> Iterator[tuple[str, Sequence[Quota], Sequence[Quota]]]:
    """(the setting, what held there before, what holds there now) of all lists of quotas."""
    yield "quotas.org", before.org, now.org
    yield "quotas.default", before.default, now.default
    yield from ((f"quotas.tenants.{name}", before.of_tenant(name), new) for name, new in now.tenants.items())
    yield from ((f"quotas.users.{name}", before.of_user(name), new) for name, new in now.users.items())
    yield from ((f"quotas.models.{name}", before.models.get(name, ()), new) for name, new in now.models.items())


def _limited(quota: Quota) -> frozenset[str]:
    return frozenset(name for name, limit in zip(RESOURCES, quota.limits, strict=True) if limit < UNLIMITED)


def _spelled(window: WindowSpec) -> str:
    if window.at is None and window.timezone == "UTC":
        return f"per {window.per}"
    return f"per {window.per} from {window.at or '00:00'} {window.timezone}"
