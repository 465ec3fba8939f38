"""What `setup()` was asked for: checked, compared, and turned into a configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace.export import SpanExporter

from otelbudget.bootstrap.exporters import variable
from otelbudget.bootstrap.instrumentors import CANDIDATES
from otelbudget.config import Config, StoreConfig, load_budget_config
from otelbudget.config.problems import did_you_mean
from otelbudget.errors import ConfigError
from otelbudget.estimate.tokenizer import NAMED
from otelbudget.model.budget import RunBudget

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

DEFAULT_FILE: Final = "budgets.yaml"
#: Names the file where `setup()` is given none.
CONFIG_VARIABLE: Final = "OTELBUDGET_CONFIG"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """`setup()`'s arguments, unchecked at first; a value equal to the default counts as not given."""

    config: Any = None
    store: Any = None
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
    instrument: Any = "auto"
    strict: bool = False
    reload_s: float | None = None
    tokenizer: Any = None

    def check(self) -> None:
        """Refuse what can't be meant, with a ConfigError that names what was given and what is expected."""
        for name, fits, expected in _EXPECTED:
            value = getattr(self, name)
            if not fits(value):
                wanted, given = f"{expected}{_hint(name, value)}", f"{value!r} ({type(value).__name__})"
                raise ConfigError(f"setup({name}=...): expected {wanted}, got {given}")
        if isinstance(self.store, str):
            StoreConfig(self.store)
        if self.service_name is not None and self.tracer_provider is not None:
            raise ConfigError(
                "service_name is for a tracer provider that setup() makes; the one given as tracer_provider has its"
                " own resource, so name the service there and leave service_name out"
            )
        for name in self.to_instrument:
            if name not in CANDIDATES:
                raise ConfigError(f"instrument: {name!r} can't be instrumented{did_you_mean(name, CANDIDATES)}")
        if self.strict and not self.enforce:
            raise ConfigError("strict=True wants enforcement and enforce=False switches it off; give one of them")

    @property
    def to_instrument(self) -> tuple[str, ...]:
        """The SDKs to instrument."""
        if self.instrument == "auto":
            return tuple(CANDIDATES)
        return tuple(self.instrument or ())

    def differing(self, asked: Arguments) -> list[str]:
        """Names of the arguments that *asked* gives and that are other ones here; ``config`` is compared elsewhere."""
        names = [one.name for one in fields(self) if one.name != "config"]
        return [name for name in names if getattr(asked, name) not in (getattr(_DEFAULTS, name), getattr(self, name))]


_DEFAULTS: Final = Arguments()


def configuration(config: str | os.PathLike[str] | Config | RunBudget | None) -> tuple[Config, bool]:
    """The configuration that *config* stands for, and whether there is any; a ConfigError if the file is wrong."""
    if isinstance(config, Config):
        return config, True
    if isinstance(config, RunBudget):
        return Config(default_budget=config), True
    if config is None:
        config = variable(CONFIG_VARIABLE) or None
    if config is not None:
        return load_budget_config(config), True
    if Path(DEFAULT_FILE).is_file():
        return load_budget_config(DEFAULT_FILE), True
    return Config(), False


def _is_number(value: object, kind: type | UnionType) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_words(value: object) -> bool:
    return value is None or (isinstance(value, str) and bool(value.strip()))


def _has(method: str) -> Callable[[Any], bool]:
    return lambda value: value is None or callable(getattr(value, method, None))


def _hint(name: str, value: object) -> str:
    if name == "config" and isinstance(value, Mapping):
        return "; build one with otelbudget.Config(budgets=...)"
    return " (an instance, not the class)" if name == "exporter" and isinstance(value, type) else ""


#: Argument, whether a value of it can be meant, and what is expected.
_EXPECTED: Final[tuple[tuple[str, Callable[[Any], bool], str], ...]] = (
    (
        "config",
        lambda it: it is None or isinstance(it, str | os.PathLike | Config | RunBudget),
        "the path of a budgets.yaml, a Config, a RunBudget or None",
    ),
    (
        "store",
        lambda it: it is None or isinstance(it, str | StoreConfig) or hasattr(it, "reserve"),
        "'memory', 'sqlite:///path.db', 'redis://host:port/db', a Store or None",
    ),
    *((name, _is_words, "a non-empty string or None") for name in ("metrics_host", "tenant", "service_name")),
    *((name, lambda it: isinstance(it, bool), "True or False") for name in ("enforce", "strict")),
    (
        "metrics_port",
        lambda it: it in (None, "auto") or (_is_number(it, int) and 0 <= it <= 65535),
        "a port from 0 (any free one) to 65535, or None for no page",
    ),
    (
        "reload_s",
        lambda it: it is None or (_is_number(it, int | float) and 0 < it <= 86_400),
        "a number of seconds above 0, at most a day, or None",
    ),
    (
        "exporter",
        lambda it: isinstance(it, SpanExporter) or it in ("auto", "none"),
        '"auto", "none" or a SpanExporter',
    ),
    (
        "tokenizer",
        lambda it: it is None or (it in NAMED if isinstance(it, str) else callable(it)),
        f"a function of a text and a model that gives a number of tokens, {' or '.join(map(repr, NAMED))}, or None",
    ),
    ("registry", _has("register"), "a prometheus_client CollectorRegistry or None"),
    ("meter_provider", _has("get_meter"), "an OpenTelemetry MeterProvider or None"),
    ("logger_provider", _has("get_logger"), "an OpenTelemetry LoggerProvider or None"),
    (
        "instrument",
        lambda it: it == "auto" or it is False or (isinstance(it, Iterable) and not isinstance(it, str)),
        f'"auto", False or a list of: {", ".join(CANDIDATES)}',
    ),
)
