"""What waits for a store is looked through while other threads, and finalizers, add to it and take from it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from otelbudget.ledger.change import write
from otelbudget.stores.base import Settle
from otelbudget.stores.owed import ByName, Owed


class Finalized:
    """Garbage in a circle, whose end puts something off."""

    def __init__(self, end: Callable[[], None]) -> None:
        self.end, self.circle = end, self

    def __del__(self) -> None:
        self.end()


@pytest.fixture(params=[1, 2, 3, 5, 7, 11])
def collecting(request: pytest.FixtureRequest) -> Iterator[None]:
    """The collector runs after so many allocations."""
    before = gc.get_threshold()
    gc.collect()
    gc.set_threshold(request.param)
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("collecting")
def test_what_is_owed_can_be_looked_through_while_finalizers_add_to_it() -> None:
    waiting = ByName()
    owed = Owed(Settle("", "org", (), (1,), (1,), (0,)), lambda _: None)
    vars(waiting).update({f"{number}": owed for number in range(50)})

    for number in range(400):
        Finalized(partial(vars(waiting).__setitem__, f"later {number}", owed))
        assert len(list(waiting.due())) >= 50
        assert waiting.spent() >= 50
    assert len(vars(waiting)) > 50


def test_what_was_owed_leaves_no_text_with_the_interpreter() -> None:
    waiting = ByName()
    owed = Owed(Settle("", "org", (), (1,), (1,), (0,)), lambda _: None)
    write([(waiting, owed.name, owed)])
    assert [*waiting.due()] == [owed]
    assert sys.intern(str(owed.name)) is not owed.name
    assert waiting.drop(owed)
    assert not vars(waiting)
