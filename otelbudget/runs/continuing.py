"""A shared run on its way between processes: what requests carry of it, and how another process takes it up.

Only its id, tenant and user travel, in the W3C baggage; limits come from the record in the store that both share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context

from otelbudget import semconv
from otelbudget.admission import denial as denials
from otelbudget.admission import trips
from otelbudget.admission.state import RunState
from otelbudget.engine.owner import LONGEST, Names
from otelbudget.errors import BudgetError, ConfigError
from otelbudget.runs import resume
from otelbudget.runs.sharing import Sharing

if TYPE_CHECKING:
    from opentelemetry.trace import Link

    from otelbudget.engine.engine import Engine
    from otelbudget.model.budget import OnExhausted

_W3C: Final = W3CBaggagePropagator()
_ID: Final = "[0-9a-f]{32}"
_CARRIED: Final = (semconv.RUN_ID, semconv.TENANT, semconv.USER)


class Headers(Protocol):
    """Those of a request, as any server has them: pairs of names and values, text or bytes."""

    def items(self) -> Iterable[tuple[Any, Any]]:
        """All of them."""


def carry(run: RunState, context: Context) -> Context:
    """*context*, in whose baggage requests carry the run that *run* is part of, if that is shared, and no other one."""
    root = run.lineage[0]
    if root.sharing is None and baggage.get_baggage(semconv.RUN_ID, context) is None:
        return context
    said = (root.run_id, root.tenant, root.user) if root.sharing is not None else (None, None, None)
    for name, value in zip(_CARRIED, said, strict=True):
        removed = baggage.remove_baggage(name, context)
        context = baggage.set_baggage(name, value, removed) if _is_name(value) else removed
    return context


def named(engine: Engine, given: object, tenant: str | None) -> tuple[str, str | None]:
    """The id of the run that *given* means, an id or the headers of a request, and its tenant as far as that is known.

    Raises:
        ConfigError: It is neither, names no run, or is not to be believed.
    """
    if isinstance(given, str):
        if not re.fullmatch(_ID, given):
            raise ConfigError(f"a run's id is 32 hexadecimal digits, as in run.run_id, got {given[:60]!r}")
        return given, tenant
    if not callable(getattr(given, "items", None)):
        raise ConfigError(f"continue_run takes the id of a run or a request's headers, got {type(given).__name__}")
    if not engine.config.inbound.run:
        raise ConfigError(
            "headers may come from anybody, so the run that they name is not believed: behind a gateway that lets only"
            " your own services say it, write `inbound: {run: true}` in budgets.yaml; or pass the id alone"
        )
    run_id, said, _ = _said(given)
    if not isinstance(run_id, str) or not re.fullmatch(_ID, run_id):
        raise ConfigError(
            "these headers name no shared run: their baggage has no otelbudget.run.id of 32 hexadecimal digits; the run"
            " has to be opened with shared=True, and the request made with a propagator for baggage"
        )
    if tenant is not None and said is not None and tenant != said:
        raise ConfigError(f"these headers say that the run is of tenant {said!r}, and not of {tenant!r}")
    return run_id, tenant or said


def _said(headers: Any) -> list[str | None]:
    """What the baggage of *headers* says of the run, its tenant and its user."""
    lines = [_text(value) for name, value in headers.items() if _text(name).lower() == "baggage"]
    context = _W3C.extract({"baggage": ",".join(lines)}, Context())
    found = (baggage.get_baggage(name, context) for name in _CARRIED)
    return [str(one) if _is_name(one) else None for one in found]


def _is_name(value: object) -> bool:
    """Whether it can travel, and is believed on arrival."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST and value.isprintable()


def _text(value: object) -> str:
    """A part of a header, as servers give it: text or, in ASGI, bytes."""
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def attach(
    engine: Engine, run_id: str, names: Names, on_exhausted: OnExhausted | None, *, reraise: bool
) -> tuple[RunState, list[Link]]:
    """The shared run *run_id*, to be worked on here too, and links to its span.

    Raises:
        BudgetError: There is no store to share, no such run in it, or it is another tenant's.
        BudgetExceeded: It has ended.
        StoreError: The store can't be reached.
    """
    if engine.store is None:
        raise BudgetError("a run is continued by way of a store that processes share, and here is none: set store.url")
    asked = engine.directory.owner(names)
    record = engine.store.store.run(engine.store.shard(asked), run_id)
    state = None if record is None else _read(record.opened)
    if record is None or state is None or names.tenant not in (None, state.get("tenant")):
        raise BudgetError(
            f"there is no shared run {run_id} of tenant {asked.tenant!r} in the store of organisation {asked.org!r}:"
            " it was opened elsewhere, or more than a week ago; say whose it is, continue_run(id, tenant=..., org=...)"
        )
    if on_exhausted is None and state["budget"].get("on_exhausted") == "function":
        on_exhausted = "raise"  # that of the opener stays with it
    budget = resume.read(state, on_exhausted)
    owner = engine.directory.owner(resume.names(state))
    run = RunState(engine, budget, owner, reraise=reraise, shared=True)
    run.number = int(run_id, 16)
    run.sharing = Sharing(run, opener=False)
    run.sharing.begin(record)
    if run.over:
        raise denials.of_run(run, run, "closed").error()
    trips.refresh(run)
    return run, resume.links(state)


def _read(opened: str) -> Any:
    try:
        found = json.loads(opened)
    except ValueError:
        return None
    return found if isinstance(found, Mapping) and isinstance(found.get("budget"), Mapping) else None
