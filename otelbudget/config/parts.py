"""The parts of a configuration that are values of their own: what is estimated, told, and believed of who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from otelbudget.errors import ConfigError
from otelbudget.model.amounts import count


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """What a call is taken to use before it says so: the settings of ``estimates`` in a budgets.yaml, see `fields`.

    ``hold="expected"`` holds the smaller of a request's own maximum and a quarter more than the longest of the model's
    last 100 answers.
    """

    output_tokens: int = 256
    hold: Literal["max", "expected"] = "max"
    clamp: bool = False
    min_output_tokens: int = 16
    ask_usage: bool = True
    on_unknown: Literal["input", "full"] = "input"

    def __post_init__(self) -> None:
        at_least_1("estimates.output_tokens", self.output_tokens)
        one_of("estimates.hold", self.hold, "max", "expected")
        flag("estimates.clamp", self.clamp)
        flag("estimates.ask_usage", self.ask_usage)
        one_of("estimates.on_unknown", self.on_unknown, "input", "full")
        at_least_1("estimates.min_output_tokens", self.min_output_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryConfig:
    """What is told, and within which bounds: the settings of ``telemetry`` in a budgets.yaml, see `fields`."""

    events: Literal["span", "log", "both"] = "span"
    max_tenants: int = 500
    max_models: int = 50
    top_runs: int = 20
    metrics_port: int | None = None
    semconv_cost: bool = False

    def __post_init__(self) -> None:
        one_of("telemetry.events", self.events, "span", "log", "both")
        at_least_1("telemetry.max_tenants", self.max_tenants)
        at_least_1("telemetry.max_models", self.max_models)
        count("telemetry.top_runs", self.top_runs, ConfigError)
        flag("telemetry.semconv_cost", self.semconv_cost)
        port = self.metrics_port
        if port is not None and count("telemetry.metrics_port", port, ConfigError) > 65_535:
            raise ConfigError(f"telemetry.metrics_port must be from 0 to 65535, got {port}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantFrom:
    """How a run that does not say whose it is learns it; at least one of both.

    That is every root run that a span opens, and one that is opened by hand without a tenant.

    Args:
        span_attribute: Attribute of the span that opens the run, or of one around it; the innermost that has it counts.
        baggage: Entry of the OpenTelemetry baggage; asked where no such span has the attribute.
    """

    span_attribute: str | None = None
    baggage: str | None = None

    def __post_init__(self) -> None:
        if self.span_attribute is None and self.baggage is None:
            raise ConfigError("tenant_from needs span_attribute, baggage or both")
        for name, value in (("span_attribute", self.span_attribute), ("baggage", self.baggage)):
            if value is not None and not (isinstance(value, str) and value):
                raise ConfigError(f"tenant_from.{name} must be a text that is not empty, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """What requests that come in are believed.

    Args:
        run: Which shared run they are part of, by their baggage; only behind a gateway that lets nobody else say it.
    """

    run: bool = False

    def __post_init__(self) -> None:
        flag("inbound.run", self.run)


def at_least_1(name: str, value: object) -> None:
    """ConfigError unless *value* is such a number."""
    if count(name, value, ConfigError) < 1:
        raise ConfigError(f"{name} must be at least 1, got 0")


def flag(name: str, value: object) -> bool:
    """*value*; ConfigError unless it is True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {value!r}")
    return value


def one_of(name: str, value: object, *words: str) -> None:
    """ConfigError unless *value* is one of *words*."""
    if value not in words:
        raise ConfigError(f"{name} must be {', '.join(map(repr, words[:-1]))} or {words[-1]!r}, got {value!r}")
