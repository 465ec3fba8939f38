"""Which exporters `setup()` makes: those that the standard ``OTEL_*`` variables name, and none unasked."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otelbudget.bootstrap.delivery import BatchOutlet, SimpleOutlet
from otelbudget.errors import ConfigError

Outlet = SimpleOutlet | BatchOutlet
Signal = Literal["TRACES", "METRICS", "LOGS"]

_PROTOCOLS: Final = {"grpc": "grpc", "http/protobuf": "http"}
_PORTS: Final = {"grpc": 4317, "http": 4318}


def make_outlets(exporter: str | SpanExporter) -> tuple[Outlet, ...]:
    """The outlets for *exporter*, as `setup()` takes it: an exporter, ``"none"`` or ``"auto"``."""
    if isinstance(exporter, SpanExporter):
        found = [(exporter, type(exporter).__name__)]
    else:
        found = [] if exporter == "none" else named_exporters("TRACES")
    at_once = (InMemorySpanExporter, ConsoleSpanExporter)
    return tuple((SimpleOutlet if isinstance(one, at_once) else BatchOutlet)(one, where) for one, where in found)


def named_exporters(signal: Signal) -> list[tuple[Any, str]]:
    """The exporters that the variables for *signal* name, each with where it delivers to."""
    listed = variable(f"OTEL_{signal}_EXPORTER")
    if not listed:
        asked = variable(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or variable("OTEL_EXPORTER_OTLP_ENDPOINT")
        listed = "otlp" if asked else "none"
    names = dict.fromkeys(name.strip() for name in listed.split(","))
    # Prometheus has a page, which is no exporter here.
    return [_named(signal, name) for name in names if name and name.lower() not in ("none", "prometheus")]


def _named(signal: Signal, name: str) -> tuple[Any, str]:
    """The exporter that ``OTEL_TRACES_EXPORTER`` or its like calls *name*, and where it delivers to."""
    full = f"otlp_proto_{otlp_protocol(signal)}" if name == "otlp" else name
    exporter_class = _load(signal, full)
    try:
        exporter = exporter_class()
    except Exception as error:
        what = {"TRACES": "span", "METRICS": "metric", "LOGS": "log"}[signal]
        raise ConfigError(f"the {what} exporter {name!r} (OTEL_{signal}_EXPORTER) can't be made: {error}") from error
    protocol = full.removeprefix("otlp_proto_")
    return exporter, name if protocol == full else f"OTLP at {otlp_endpoint(signal, protocol)}"


def _load(signal: Signal, name: str) -> Any:
    found = entry_points(group=f"opentelemetry_{signal.lower()}_exporter")
    if name not in found.names:
        known = ", ".join(sorted({"none", "otlp", *found.names}))
        raise ConfigError(f"OTEL_{signal}_EXPORTER names {name!r}, which no installed package provides; known: {known}")
    return found[name].load()


def otlp_protocol(signal: Signal) -> str:
    """``"grpc"`` or ``"http"``: as the variables for *signal* say, else by the port, else gRPC as in the SDK."""
    named = variable(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or variable("OTEL_EXPORTER_OTLP_PROTOCOL")
    if named:
        if named not in _PROTOCOLS:
            raise ConfigError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL is {named!r}, which is not supported; use one of: {', '.join(_PROTOCOLS)}"
            )
        return _PROTOCOLS[named]
    own = variable(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    url = urlsplit(own or variable("OTEL_EXPORTER_OTLP_ENDPOINT"))
    return "http" if url.netloc.endswith(f":{_PORTS['http']}") or (own and url.path.strip("/")) else "grpc"


def otlp_endpoint(signal: Signal, protocol: str) -> str:
    """Where OTLP goes for *signal* over *protocol*, without user and password."""
    url = variable(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or variable("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not url:
        return f"http://localhost:{_PORTS[protocol]}"
    scheme, marker, rest = url.rpartition("://")
    return scheme + marker + rest.rpartition("@")[2]


def variable(name: str) -> str:
    """An environment variable, stripped; empty counts as unset, as the specification says."""
    return os.environ.get(name, "").strip()
