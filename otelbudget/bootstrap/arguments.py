"""What `setup()` was asked for: checked, compared, and turned into a configuration."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace.export import SpanExporter

from otelbudget.bootstrap.instrumentors import CANDIDATES
from otelbudget.config import Config, load_budget_config
from otelbudget.config.settings import did_you_mean
from otelbudget.errors import ConfigError
from otelbudget.model.budget import RunBudget

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

__all__ = ["Arguments", "configuration", "refuse_unknown"]

DEFAULT_FILE: Final = "budgets.yaml"
_MAX_PORT: Final = 65535
_LONGEST_S: Final = 86_400


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """`setup()`'s arguments under their own names; a value equal to the default counts as not given.

    Some are of any type, since nothing has been checked when they arrive here.
    """

    config: Any = None
    store: object = None
    metrics_port: int | str | None = "auto"
    metrics_host: str | None = None
    tenant: str | None = None
    service_name: str | None = None
    tracer_provider: TracerProvider | None = None
    meter_provider: MeterProvider | None = None
    logger_provider: LoggerProvider | None = None
    registry: CollectorRegistry | None = None
    exporter: Any = "auto"
    enforce: bool = True
    instrument: str | bool | Iterable[str] = "auto"
    strict: bool = False
    reload_s: float | None = None

    def check(self) -> None:
        """Refuse what can't be meant.

        Raises:
            ConfigError: Naming the argument, what was given and what is expected.
        """
        self._check_config()
        self._check_unsupported()
        self._check_words()
        self._check_port()
        self._check_reload()
        self._check_telemetry()
        self._check_instrument()
        if self.strict and not self.enforce:
            raise ConfigError("strict=True wants enforcement and enforce=False switches it off; give one of them")

    def _check_config(self) -> None:
        if self.config is not None and not isinstance(self.config, str | os.PathLike | Config | RunBudget):
            hint = "; build one with otelbudget.Config(budgets=...)" if isinstance(self.config, Mapping) else ""
            raise _wrong("config", self.config, f"the path of a budgets.yaml, a Config, a RunBudget or None{hint}")

    def _check_unsupported(self) -> None:
        if self.store is not None:
            raise ConfigError(
                f"store={self.store!r} is not supported by this version: accounts live in this process's memory;"
                " leave store out"
            )

    def _check_words(self) -> None:
        for name in ("metrics_host", "tenant", "service_name"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise _wrong(name, value, "a non-empty string or None")
        for name in ("enforce", "strict"):
            if not isinstance(getattr(self, name), bool):
                raise _wrong(name, getattr(self, name), "True or False")
        if self.service_name is not None and self.tracer_provider is not None:
            raise ConfigError(
                "service_name is for a tracer provider that setup() makes; the one given as tracer_provider has its"
                " own resource, so name the service there and leave service_name out"
            )

    def _check_port(self) -> None:
        port = self.metrics_port
        if port is None or port == "auto":
            return
        if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= _MAX_PORT:
            raise _wrong("metrics_port", port, "a port from 0 (any free one) to 65535, or None for no page")

    def _check_reload(self) -> None:
        every_s = self.reload_s
        if every_s is None:
            return
        if isinstance(every_s, bool) or not isinstance(every_s, int | float) or not 0 < every_s <= _LONGEST_S:
            raise _wrong("reload_s", every_s, "a number of seconds above 0, at most a day, or None")

    def _check_telemetry(self) -> None:
        exporter = self.exporter
        if not isinstance(exporter, SpanExporter) and exporter not in ("auto", "none"):
            hint = " (an instance, not the class)" if isinstance(exporter, type) else ""
            raise _wrong("exporter", exporter, f'"auto", "none" or a SpanExporter{hint}')
        if self.registry is not None and not callable(getattr(self.registry, "register", None)):
            raise _wrong("registry", self.registry, "a prometheus_client CollectorRegistry or None")
        if self.meter_provider is not None and not callable(getattr(self.meter_provider, "get_meter", None)):
            raise _wrong("meter_provider", self.meter_provider, "an OpenTelemetry MeterProvider or None")
        if self.logger_provider is not None and not callable(getattr(self.logger_provider, "get_logger", None)):
            raise _wrong("logger_provider", self.logger_provider, "an OpenTelemetry LoggerProvider or None")

    def _check_instrument(self) -> None:
        asked = self.instrument
        if asked == "auto" or asked is False:
            return
        if isinstance(asked, str | bool) or not isinstance(asked, Iterable):
            raise _wrong("instrument", asked, f'"auto", False or a list of: {", ".join(CANDIDATES)}')
        for name in asked:
            if name not in CANDIDATES:
                raise ConfigError(f"instrument: {name!r} can't be instrumented{did_you_mean(name, CANDIDATES)}")

    @property
    def to_instrument(self) -> tuple[str, ...]:
        """The SDKs to instrument."""
        if isinstance(self.instrument, str):
            return tuple(CANDIDATES)
        return tuple(self.instrument) if isinstance(self.instrument, Iterable) else ()

    def differing(self, asked: Arguments) -> list[str]:
        """Names of the arguments that *asked* gives and that are other ones here; ``config`` is compared elsewhere."""
        differ = []
        for one in fields(self):
            now, then = getattr(asked, one.name), getattr(self, one.name)
            given = now is not one.default and now != one.default
            if one.name != "config" and given and now is not then and now != then:
                differ.append(one.name)
        return differ


def refuse_unknown(names: Iterable[str]) -> None:
    """Raise for the first of *names*, which `setup()` does not have.

    Raises:
        ConfigError: With the argument that may have been meant.
    """
    known = [one.name for one in fields(Arguments)]
    for name in names:
        raise ConfigError(f"setup() has no argument {name!r}{did_you_mean(name, known)}")


def configuration(config: str | os.PathLike[str] | Config | RunBudget | None) -> tuple[Config, bool]:
    """The configuration that *config* stands for, and whether there is any.

    Raises:
        ConfigError: The file can't be read or is wrong.
    """
    if isinstance(config, Config):
        return config, True
    if isinstance(config, RunBudget):
        return Config(default_budget=config), True
    if config is not None:
        return load_budget_config(config), True
    if Path(DEFAULT_FILE).is_file():
        return load_budget_config(DEFAULT_FILE), True
    return Config(), False


def _wrong(name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(f"setup({name}=...): expected {expected}, got {value!r} ({type(value).__name__})")
