"""Guards: what stops a model call at the choke point of a provider's SDK, before anything is sent.

A guard sees the whole request (model, messages, maximum), holds what it can cost, lets it go or raises
`BudgetExceeded`, and charges what the answer or the stream says it used. It works without any tracing.

To add one for another SDK:

1. Write ``guards/<name>.py`` with the three functions of `Guard`. `patching.Takeover` puts a function of yours in
   front of one of the SDK's; `calls.begin` and `calls.abegin` ask for the call, and the `ModelCall` they give settles
   it and says which maximum to send (say `ModelRequest.lowerable` if you can change that); `exchange` notes the
   attempts, and `watch.Watch` follows an answer that is read later.
2. Add its line to `GUARDS`.
3. Name the instrumentation scopes of that SDK in `spans`, so that their spans are not charged a second time.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final, Protocol, cast

__all__ = ["GUARDS", "Guard", "guard"]


class Guard(Protocol):
    """What the module of a guard offers."""

    def install(self) -> None:
        """Put the guard in, unless it is; an ImportError if its SDK is not installed."""

    def unreached(self) -> list[str]:
        """Names of client classes whose calls do not pass the guard; empty if all do. Sends nothing."""

    def uninstall(self) -> None:
        """Take the guard out; the SDK is then as it was before. Whatever still holds the guard passes through it."""


#: SDK, as `spans.covered_sdk` names it -> module of its guard.
GUARDS: Final[dict[str, str]] = {"openai": "otelbudget.guards.openai"}


def guard(sdk: str) -> Guard:
    """The guard of *sdk*; a KeyError if there is none."""
    return cast("Guard", import_module(GUARDS[sdk]))
