"""A call inside a call that is held already: what a library sends through an SDK that is guarded too.

It is neither judged nor charged by itself: it tells the outer call what it used, and that is charged when that ends.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otelbudget.admission.state import RunState
    from otelbudget.guards.charge import Charge
    from otelbudget.model.usage import Usage


class Part:
    """A part of the call of *outer*, for a guard inside, in place of a `ModelCall`."""

    max_output_tokens: int | None

    def __init__(self, outer: Charge, max_output_tokens: int | None, input_tokens: int) -> None:
        self._outer = outer
        self.max_output_tokens = max_output_tokens
        self.input_tokens = input_tokens

    @property
    def settled(self) -> bool:
        """Whether the outer call is over: what is sent after that is a call of its own."""
        return self._outer.call.settled

    @property
    def run(self) -> RunState:
        """The run that pays the outer call."""
        return self._outer.call.run

    def active(self) -> AbstractContextManager[Any]:
        """The outer call has its span."""
        return nullcontext()

    def again(self, in_s: float = 0) -> None:
        """A retry inside: none is sent after the deadline of the outer call, whose guard tells its caller."""
        self._outer.call.again(in_s)

    def grow(self, output_tokens: int, charged: int = 0) -> None:  # noqa: ARG002
        """The outer call sees its stream itself, where it has one that is followed."""
        self._outer.part_grows(output_tokens)

    def commit(self, usage: Usage | None = None) -> None:
        """The outer call is told what was used."""
        self._ended(usage, answered=True)

    def failed(self, usage: Usage | None = None, error: BaseException | None = None) -> None:  # noqa: ARG002
        """An attempt that ended in an error."""
        self._ended(usage, answered=False)

    def unknown(self, *, error: BaseException | None = None, usage: Usage) -> None:  # noqa: ARG002
        """An attempt that nobody knows the end of. Nothing is charged yet, so what is told later goes before it."""
        self._ended(usage, answered=False)

    def release(self, error: BaseException | None = None) -> None:  # noqa: ARG002
        """An attempt that never left."""
        self._ended(None, answered=False)

    def late(self, usage: Usage) -> None:
        """More of an attempt."""
        self._outer.note(object(), usage)

    def _ended(self, usage: Usage | None, *, answered: bool) -> None:
        if usage is not None:
            self._outer.note(self, usage)
        self._outer.part_ended(answered=answered)
