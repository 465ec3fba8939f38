"""Which exporters `setup()` makes: those that the standard ``OTEL_*`` variables name, and none unasked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otelbudget.bootstrap.delivery import BatchOutlet, SimpleOutlet
from otelbudget.errors import ConfigError

__all__ = ["Outlet", "make_outlets", "named_exporters", "otlp_endpoint", "otlp_protocol", "variable"]

Outlet = SimpleOutlet | BatchOutlet
Signal = Literal["TRACES", "LOGS"]

_GROUPS: Final = {"TRACES": "opentelemetry_traces_exporter", "LOGS": "opentelemetry_logs_exporter"}
#: Known ones, so that the metadata of all installed packages need not be read.
_BUILT_IN: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "TRACES": {
        "console": ("opentelemetry.sdk.trace.export", "ConsoleSpanExporter"),
        "otlp_proto_http": ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "OTLPSpanExporter"),
        "otlp_proto_grpc": ("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", "OTLPSpanExporter"),
    },
    "LOGS": {
        "console": ("otelbudget.bootstrap.log_delivery", "ConsoleExporter"),
        "otlp_proto_http": ("opentelemetry.exporter.otlp.proto.http._log_exporter", "OTLPLogExporter"),
        "otlp_proto_grpc": ("opentelemetry.exporter.otlp.proto.grpc._log_exporter", "OTLPLogExporter"),
    },
}
_PROTOCOLS: Final = {"grpc": "grpc", "http/protobuf": "http"}
_PORTS: Final = {"grpc": 4317, "http": 4318}


def make_outlets(exporter: str | SpanExporter) -> tuple[Outlet, ...]:
    """The outlets for *exporter*, as `setup()` takes it: an exporter, ``"none"`` or ``"auto"``.

    Raises:
        ConfigError: A variable names an exporter or protocol that does not exist, or the exporter can't be made.
    """
    if isinstance(exporter, SpanExporter):
        return (_outlet(exporter, type(exporter).__name__),)
    if exporter == "none":
        return ()
    return tuple(_outlet(exporter, where) for exporter, where in named_exporters("TRACES"))


def named_exporters(signal: Signal) -> list[tuple[Any, str]]:
    """The exporters that the variables for *signal* name, and where each delivers to.

    Raises:
        ConfigError: A variable names an exporter or protocol that does not exist, or the exporter can't be made.
    """
    return [_named(signal, name) for name in _names(signal)]


def _names(signal: Signal) -> list[str]:
    listed = variable(f"OTEL_{signal}_EXPORTER")
    if not listed:
        asked = variable(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or variable("OTEL_EXPORTER_OTLP_ENDPOINT")
        listed = "otlp" if asked else "none"
    names = list(dict.fromkeys(name.strip() for name in listed.split(",")))
    return [name for name in names if name and name.lower() != "none"]


def _named(signal: Signal, name: str) -> tuple[Any, str]:
    """The exporter that ``OTEL_TRACES_EXPORTER`` or its like calls *name*, and where it delivers to."""
    full = f"otlp_proto_{otlp_protocol(signal)}" if name == "otlp" else name
    exporter_class = _load(signal, full)
    try:
        exporter = exporter_class()
    except Exception as error:
        what = {"TRACES": "span", "LOGS": "log"}[signal]
        raise ConfigError(f"the {what} exporter {name!r} (OTEL_{signal}_EXPORTER) can't be made: {error}") from error
    protocol = full.removeprefix("otlp_proto_")
    return exporter, name if protocol == full else f"OTLP at {otlp_endpoint(signal, protocol)}"


def _load(signal: Signal, name: str) -> Any:
    built_in = _BUILT_IN[signal]
    if name in built_in:
        module, attribute = built_in[name]
        return getattr(import_module(module), attribute)
    found = entry_points(group=_GROUPS[signal])
    if name not in found.names:
        known = ", ".join(sorted({"none", "otlp", *built_in, *found.names}))
        variable_name = f"OTEL_{signal}_EXPORTER"
        raise ConfigError(f"{variable_name} names {name!r}, which no installed package provides; known: {known}")
    return found[name].load()


def _outlet(exporter: SpanExporter, where: str) -> Outlet:
    simple = isinstance(exporter, InMemorySpanExporter | ConsoleSpanExporter)
    return SimpleOutlet(exporter, where) if simple else BatchOutlet(exporter, where)


def otlp_protocol(signal: str) -> str:
    """``"grpc"`` or ``"http"``, as the variables for *signal* (``"TRACES"``, ``"METRICS"``, ``"LOGS"``) say.

    Where they name no protocol, the port decides (4317 gRPC, 4318 HTTP), then the default of the Python SDK: gRPC.

    Raises:
        ConfigError: The variable names another protocol.
    """
    named = variable(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or variable("OTEL_EXPORTER_OTLP_PROTOCOL")
    if named:
        if named not in _PROTOCOLS:
            raise ConfigError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL is {named!r}, which is not supported; use one of: {', '.join(_PROTOCOLS)}"
            )
        return _PROTOCOLS[named]
    own = variable(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    url = urlsplit(own or variable("OTEL_EXPORTER_OTLP_ENDPOINT"))
    return "http" if _port(url) == _PORTS["http"] or (own and url.path.strip("/")) else "grpc"


def otlp_endpoint(signal: str, protocol: str) -> str:
    """Where OTLP goes for *signal* over *protocol*, without user and password."""
    url = variable(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or variable("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not url:
        return f"http://localhost:{_PORTS[protocol]}"
    scheme, marker, rest = url.rpartition("://")
    return scheme + marker + rest.rpartition("@")[2]


def variable(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """An environment variable, stripped; empty counts as unset, as the specification says."""
    return environment.get(name, "").strip()


def _port(url: Any) -> int | None:
    try:
        port: int | None = url.port
    except ValueError:
        return None
    return port
