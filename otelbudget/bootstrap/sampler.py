"""`BudgetSampler`: sampling decides what is exported, never what is enforced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from otelbudget.guards.boundary import contained


class Listener(Protocol):
    """The manager, as it is asked here."""

    def must_hear(self, parent_context: Context | None, name: str, attributes: Attributes) -> bool:
        """Whether a span that is not exported has to reach the processors."""


class BudgetSampler(Sampler):
    """Decides as *root* does, but a dropped span that the manager needs is recorded without being exported."""

    def __init__(self, root: Sampler) -> None:
        self.root = root
        self.listener: Listener | None = None

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """What *root* says, with DROP turned into RECORD_ONLY where the manager has to hear the span."""
        result = self.root.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        listener = self.listener
        if result.decision is not Decision.DROP or listener is None:
            return result
        try:
            heard = listener.must_hear(parent_context, name, attributes)
        except Exception:
            with contained("a span is sampled"):
                raise
            heard = True
        # A result for DROP carries no attributes, and the processor classifies the span by them.
        return SamplingResult(Decision.RECORD_ONLY, attributes, result.trace_state) if heard else result

    def get_description(self) -> str:
        """Its own name and that of *root*, for the logs of the SDK."""
        return f"BudgetSampler{{{self.root.get_description()}}}"


def can_drop(sampler: object) -> bool:
    """Whether a sampler may drop spans that begin in this process; an unknown one may."""
    if isinstance(sampler, ParentBased):
        return can_drop(getattr(sampler, "_root", None))
    if isinstance(sampler, TraceIdRatioBased):
        return sampler.rate < 1.0
    if isinstance(sampler, StaticSampler):
        return sampler.get_description() != ALWAYS_ON.get_description()
    return not isinstance(sampler, BudgetSampler)
