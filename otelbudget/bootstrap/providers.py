"""The tracer provider: the one that is there, joined, or one of our own.

Each provider is equipped once, for as long as it lives; see `forwarder`.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import ProxyTracerProvider

from otelbudget import forking
from otelbudget.bootstrap.dispatcher import Dispatcher
from otelbudget.bootstrap.forwarder import Forwarder
from otelbudget.bootstrap.sampler import BudgetSampler, can_drop, sampler_of_environment
from otelbudget.errors import ConfigError

__all__ = ["Equipped", "equip"]

_SERVICE_NAME = "service.name"
_lock = forking.fresh(threading.Lock())


@dataclass(frozen=True)
class _Equipment:
    """What a provider has got for good. It is found by identity: those of vendors need not be hashable."""

    inner: weakref.ref[Any]
    forwarder: Forwarder
    sampler: BudgetSampler | None
    deaf: str


_equipment: list[_Equipment] = []


@dataclass(frozen=True)
class Equipped:
    """A tracer provider that reaches us.

    Attributes:
        provider: What tracers are got from.
        forwarder: Through which it reaches the current manager; None if it takes no span processors.
        sampler: Ours, if `setup()` made the provider.
        deaf: Why it makes no spans that we hear of, in words; empty if it does.
    """

    provider: Any
    forwarder: Forwarder | None
    sampler: BudgetSampler | None
    deaf: str

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
    def resource(self) -> Resource | None:
        """Its resource, where it shows one."""
        resource = getattr(self.provider, "resource", None)
        return resource if isinstance(resource, Resource) else None

    @property
    def service_name(self) -> str | None:
        """The name of the service in its resource."""
        return None if self.resource is None else str(self.resource.attributes.get(_SERVICE_NAME))


def equip(given: Any, service_name: str | None) -> Equipped:
    """Join *given* or the global provider; make one where there is none.

    Args:
        given: `setup()`'s ``tracer_provider``.
        service_name: For a provider that is made here.

    Raises:
        ConfigError: *given* is no tracer provider.
    """
    if given is not None and not callable(getattr(given, "get_tracer", None)):
        raise ConfigError(
            f"tracer_provider: expected an OpenTelemetry TracerProvider, got {given!r} ({type(given).__name__})"
        )
    with _lock:
        provider = trace.get_tracer_provider() if given is None else given
        if isinstance(provider, ProxyTracerProvider):
            made, equipment = _make(service_name)
            trace.set_tracer_provider(made)
            provider = trace.get_tracer_provider()
            if provider is made:
                _equipment.append(equipment)
        return _known(provider) or _join(provider)


def _make(service_name: str | None) -> tuple[TracerProvider, _Equipment]:
    named = {} if service_name is None else {_SERVICE_NAME: service_name}
    dispatcher = Dispatcher()
    provider = TracerProvider(resource=Resource.create(named), active_span_processor=dispatcher)
    sampler = BudgetSampler(provider.sampler)
    provider.sampler = sampler  # before the first tracer, which keeps what it finds here
    return provider, _Equipment(weakref.ref(provider), dispatcher.forwarder, sampler, _deafness(provider))


def _known(provider: Any) -> Equipped | None:
    inner = _inner(provider)
    for found in _equipment:
        if found.inner() is inner:
            if found.sampler is not None:
                found.sampler.root = sampler_of_environment()
            return Equipped(provider, found.forwarder, found.sampler, found.deaf)
    return None


def _join(provider: Any) -> Equipped:
    if not callable(getattr(provider, "add_span_processor", None)):
        kind = f"{type(provider).__module__}.{type(provider).__qualname__}"
        return Equipped(provider, None, None, f"the tracer provider {kind} takes no span processors")
    inner = _inner(provider)
    forwarder = Forwarder()
    provider.add_span_processor(forwarder)
    _equipment[:] = [found for found in _equipment if found.inner() is not None]
    _equipment.append(_Equipment(weakref.ref(inner), forwarder, None, _deafness(inner)))
    return Equipped(provider, forwarder, None, _deafness(inner))


def _inner(provider: Any) -> Any:
    """The SDK's provider behind a vendor's proxy (Logfire keeps it as ``provider``)."""
    inner = getattr(provider, "provider", None)
    return inner if isinstance(inner, TracerProvider) else provider


def _deafness(provider: Any) -> str:
    return "OTEL_SDK_DISABLED is set" if getattr(provider, "_disabled", False) else ""
