"""The records of shared runs: what a run was opened with, and what has been changed about it since.

Whoever opens a run writes its record once. A change is the next after the one that its writer has read, or it is none,
so of two that come together one is made anew from what the other has left.
"""

from __future__ import annotations

from typing import Final, NamedTuple

#: How long a shared run lives at most, in seconds from its opening: then its record is gone, and its account ends.
RUN_S: Final = 7 * 86_400


class RunRecord(NamedTuple):
    """A shared run, as all processes see it. A store keeps both texts as they are.

    Attributes:
        opened: What it was opened with.
        state: What it is now.
        changes: How often the state was changed.
        opened_s, now_s: The store's clock as it was opened and as this was read; what a writer says of it is ignored.
    """

    opened: str
    state: str
    changes: int = 0
    opened_s: float = 0.0
    now_s: float = 0.0


def written(kept: RunRecord | None, given: RunRecord, now_s: float) -> RunRecord | None:
    """What is to be kept once *given* is written where *kept* is; None for a change of what is not there."""
    if kept is None:
        return given._replace(opened_s=now_s) if given.changes == 0 else None
    return kept._replace(state=given.state, changes=given.changes) if given.changes == kept.changes + 1 else kept
