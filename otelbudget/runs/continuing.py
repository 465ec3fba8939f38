"""Going on with a run that was exported, or that another process shares.

Of a shared one only id, tenant and user travel, in the W3C baggage; limits come from the record in the store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final, Protocol, TypedDict

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import Link

from otelbudget.admission import denial as denials
from otelbudget.admission import trips
from otelbudget.admission.state import RunState
from otelbudget.engine.engine import Engine
from otelbudget.engine.owner import Names
from otelbudget.errors import BudgetError, ConfigError
from otelbudget.model.budget import OnExhausted
from otelbudget.runs import resume
from otelbudget.runs.scope import RunScope
from otelbudget.runs.sharing import CARRIED, Sharing, is_name

_W3C: Final = W3CBaggagePropagator()
_ID: Final = "[0-9a-f]{32}"


class Headers(Protocol):
    """Those of a request, as any server has them: pairs of names and values, text or bytes."""

    def items(self) -> Iterable[tuple[Any, Any]]:
        """All of them."""


class ContinueOptions(TypedDict, total=False):
    """What `otelbudget.continue_run` takes beside headers or an id."""

    tenant: str | None
    org: str | None
    on_exhausted: OnExhausted | None
    reraise: bool


def resumed(engine: Engine, state: Mapping[str, Any], on_exhausted: OnExhausted | None, *, reraise: bool) -> RunScope:
    """What `otelbudget.resume` gives, on *engine*."""
    budget = resume.read(state, on_exhausted)
    goes_on = partial(resume.rebuild, engine, budget, dict(state), reraise=reraise)
    return RunScope(lambda: engine, budget, goes_on=goes_on)


def continued(engine: Engine, headers_or_id: str | Headers, options: ContinueOptions) -> RunScope:
    """What `otelbudget.continue_run` gives, on *engine*."""
    run_id, tenant = named(engine, headers_or_id, options.get("tenant"))
    org, on_exhausted, reraise = options.get("org"), options.get("on_exhausted"), options.get("reraise", True)
    made = partial(attach, engine, run_id, Names(org=org, tenant=tenant), on_exhausted, reraise=reraise)
    return RunScope(lambda: engine, goes_on=made, shared=True, org=org, tenant=tenant)


def named(engine: Engine, given: object, tenant: str | None) -> tuple[str, str | None]:
    """The id of the run that *given* means, an id or the headers of a request, and its tenant, if that is known."""
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
    found = (baggage.get_baggage(name, context) for name in CARRIED)
    return [str(one) if is_name(one) else None for one in found]


def _text(value: object) -> str:
    """A part of a header, as servers give it: text or, in ASGI, bytes."""
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def attach(
    engine: Engine, run_id: str, names: Names, on_exhausted: OnExhausted | None, *, reraise: bool
) -> tuple[RunState, list[Link]]:
    """The shared run *run_id*, to be worked on here too, and links to its span."""
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
