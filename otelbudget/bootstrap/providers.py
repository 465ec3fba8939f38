"""The tracer provider: the one that is there, joined, or one of our own.

Each provider is equipped once, for as long as it lives; see `dispatcher`.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import ProxyTracerProvider

from otelbudget import forking
from otelbudget.bootstrap.dispatcher import Dispatcher, Forwarder
from otelbudget.bootstrap.sampler import BudgetSampler, can_drop
from otelbudget.errors import BudgetExceeded, ConfigError

_SERVICE_NAME = "service.name"
_lock = forking.fresh_lock()


#: What providers have got for good, found by identity: those of vendors need not be hashable.
_equipment: list[tuple[weakref.ref[Any], Forwarder, BudgetSampler | None]] = []


@dataclass(frozen=True)
class Equipped:
    """A tracer provider that reaches us."""

    provider: Any
    forwarder: Forwarder | None = None  # None if it takes no span processors
    sampler: BudgetSampler | None = None  # None if `setup()` did not make the provider

    @property
    def deaf(self) -> str:
        """Why it makes no spans that we hear of, in words; empty if it does."""
        if self.forwarder is None:
            kind = type(self.provider)
            return f"the tracer provider {kind.__module__}.{kind.__qualname__} takes no span processors"
        return "OTEL_SDK_DISABLED is set" if getattr(_inner(self.provider), "_disabled", False) else ""

    @property
    def ours(self) -> bool:
        """Whether `setup()` made it."""
        return self.sampler is not None

    @property
    def drops(self) -> bool:
        """Whether a sampler that is not ours may keep model spans from us."""
        sampler = None if self.ours else getattr(_inner(self.provider), "sampler", None)
        return sampler is not None and can_drop(sampler)

    @property
    def swallows(self) -> bool:
        """Whether it keeps a refusal from who starts a span."""
        return not (self.ours or self.deaf or refusals_arrive())

    @property
    def resource(self) -> Resource | None:
        """Its resource, where it shows one."""
        resource = getattr(self.provider, "resource", None)
        return resource if isinstance(resource, Resource) else None

    @property
    def service_name(self) -> str | None:
        """The name of the service in its resource."""
        return None if self.resource is None else str(self.resource.attributes.get(_SERVICE_NAME))


class _Refusing(SpanProcessor):
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 - the SDK's signature
        raise BudgetExceeded


def refusals_arrive() -> bool:
    """Whether a refusal by a processor that a provider was given reaches who starts a span: found out by trying."""
    provider = TracerProvider(ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(_Refusing())
    try:
        provider.get_tracer(__name__).start_span("refused")
    except BudgetExceeded:
        return True
    return False


def equip(given: Any, service_name: str | None) -> Equipped:
    """Join *given* or the global provider; make one, as *service_name*, where there is none."""
    if given is not None and not callable(getattr(given, "get_tracer", None)):
        raise ConfigError(
            f"tracer_provider: expected an OpenTelemetry TracerProvider, got {given!r} ({type(given).__name__})"
        )
    with _lock:
        provider = trace.get_tracer_provider() if given is None else given
        if isinstance(provider, ProxyTracerProvider):
            trace.set_tracer_provider(_make(service_name))
            provider = trace.get_tracer_provider()
        return _known(provider) or _join(provider)


def _make(service_name: str | None) -> TracerProvider:
    named = {} if service_name is None else {_SERVICE_NAME: service_name}
    dispatcher = Dispatcher()
    provider = TracerProvider(resource=Resource.create(named), active_span_processor=dispatcher)
    sampler = BudgetSampler(provider.sampler)
    provider.sampler = sampler  # before the first tracer, which keeps what it finds here
    _equipment.append((weakref.ref(provider), dispatcher.forwarder, sampler))
    return provider


def _known(provider: Any) -> Equipped | None:
    inner = _inner(provider)
    _equipment[:] = [known for known in _equipment if known[0]() is not None]
    for known, forwarder, sampler in _equipment:
        if known() is inner:
            return Equipped(provider, forwarder, sampler)
    return None


def _join(provider: Any) -> Equipped:
    if not callable(getattr(provider, "add_span_processor", None)):
        return Equipped(provider)
    forwarder = Forwarder()
    provider.add_span_processor(forwarder)
    _equipment.append((weakref.ref(_inner(provider)), forwarder, None))
    return Equipped(provider, forwarder)


def _inner(provider: Any) -> Any:
    """The SDK's provider behind a vendor's proxy (Logfire keeps it as ``provider``)."""
    inner = getattr(provider, "provider", None)
    return inner if isinstance(inner, TracerProvider) else provider
