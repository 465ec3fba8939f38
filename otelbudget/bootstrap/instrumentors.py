"""At most one GenAI instrumentor per client SDK, switched on where none is; and off again, if it was us.

Candidates are chosen by module, since several packages register the same entry point name. To add one: a row in
`CANDIDATES`; to add an SDK: a key in each table here, and a guard of the same name.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

__all__ = ["CANDIDATES", "Instrumented", "active_instrumentor", "installed", "instrument"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """One instrumentor: where it is, and the package to install."""

    module: str
    attribute: str
    package: str


#: SDK -> instrumentors in order of preference: official, OpenInference, OpenLLMetry.
CANDIDATES: Final[dict[str, tuple[Candidate, ...]]] = {
    "openai": (
        Candidate(
            "opentelemetry.instrumentation.genai.openai",
            "OpenAIInstrumentor",
            "opentelemetry-instrumentation-genai-openai",
        ),
        Candidate("openinference.instrumentation.openai", "OpenAIInstrumentor", "openinference-instrumentation-openai"),
        Candidate("opentelemetry.instrumentation.openai", "OpenAIInstrumentor", "opentelemetry-instrumentation-openai"),
    )
}
#: Others that may be active already; we never switch these on.
_OTHERS: Final[dict[str, tuple[Candidate, ...]]] = {
    "openai": (
        Candidate(
            "opentelemetry.instrumentation.openai_v2", "OpenAIInstrumentor", "opentelemetry-instrumentation-openai-v2"
        ),
        Candidate(
            "opentelemetry.instrumentation.openai.v1", "OpenAIV1Instrumentor", "opentelemetry-instrumentation-openai"
        ),
    )
}

#: SDK -> its client classes, the package of its other classes, and the method that most instrumentations wrap.
_CLIENTS: Final[dict[str, tuple[str, ...]]] = {"openai": ("OpenAI", "AsyncOpenAI")}
_RESOURCES: Final[dict[str, str]] = {"openai": "openai.resources"}
_CREATE: Final[dict[str, tuple[str, str, str]]] = {
    "openai": ("openai.resources.chat.completions", "Completions", "create")
}


class Instrumented:
    """An instrumentor that we switched on.

    Args:
        package: What it is called.
        instrumentor: The object that switches it off.
        wrappers: What it has put on the SDK's classes: (class, attribute, wrapper).
    """

    def __init__(self, package: str, instrumentor: Any, wrappers: list[tuple[type, str, Any]]) -> None:
        self.package = package
        self._instrumentor = instrumentor
        self._wrappers = wrappers

    def remove(self) -> None:
        """Switch it off, unless somebody else has; the SDK's classes are as they were."""
        if self._instrumentor.is_instrumented_by_opentelemetry:
            self._instrumentor.uninstrument()
        for cls, name, wrapper in self._wrappers:
            # OpenLLMetry 0.62 leaves all its wrappers; OpenInference 0.1 leaves what was inherited as the class's own.
            left: Any = vars(cls).get(name)
            if left is wrapper:
                left = left.__wrapped__
                setattr(cls, name, left)
            if left is not None and left is getattr(super(cls, cls), name, None):
                delattr(cls, name)


def instrument(sdk: str, *, tracer_provider: Any, meter_provider: Any = None) -> Instrumented | None:
    """Switch on the first instrumentor of *sdk* that is installed and works; None if there is none.

    Ask `active_instrumentor` first. The SDK has been imported.
    """
    given = {"tracer_provider": tracer_provider}
    if meter_provider is not None:
        given["meter_provider"] = meter_provider
    there = {id(wrapper) for *_, wrapper in _wrappers(sdk)}
    for candidate in CANDIDATES[sdk]:
        if not installed(candidate.module):
            continue
        try:
            instrumentor = getattr(import_module(candidate.module), candidate.attribute)()
            instrumentor.instrument(raise_exception_on_conflict=True, **given)
        except Exception as error:  # noqa: BLE001 - a broken or mismatched instrumentor must not stop the application
            _log.warning("%s can't be switched on, trying the next: %s", candidate.package, error)
            continue
        if instrumentor.is_instrumented_by_opentelemetry:
            wrappers = [found for found in _wrappers(sdk) if id(found[2]) not in there]
            return Instrumented(candidate.package, instrumentor, wrappers)
    return None


def active_instrumentor(sdk: str) -> str | None:
    """What instruments *sdk* already, in words, or None. The SDK has been imported."""
    for candidate in CANDIDATES[sdk] + _OTHERS[sdk]:
        module = sys.modules.get(candidate.module)
        # Not by calling the class: that would run its constructor, which changes settings of a live one.
        instance = getattr(getattr(module, candidate.attribute, None), "_instance", None)
        if instance is not None and instance.is_instrumented_by_opentelemetry:
            return candidate.package
    if any(vars(cls).get("_is_instrumented_by_logfire") for cls in _clients(sdk)):
        return "logfire"
    return "another instrumentation" if _wrapped(sdk) else None


def _clients(sdk: str) -> list[type]:
    return [getattr(sys.modules[sdk], name) for name in _CLIENTS[sdk]]


def _wrapped(sdk: str) -> bool:
    """Whether somebody has wrapped what makes completions."""
    module, cls, method = _CREATE[sdk]
    return _is_wrapper(vars(getattr(import_module(module), cls))[method])


def _is_wrapper(found: object) -> bool:
    return type(found).__name__.endswith("FunctionWrapper")  # wrapt's, whichever copy of it


def _wrappers(sdk: str) -> list[tuple[type, str, Any]]:
    """Every wrapper on a class of the SDK: (class, attribute, wrapper)."""
    classes = set(_clients(sdk))
    for name, module in list(sys.modules.items()):
        if name.startswith(_RESOURCES[sdk]):
            # The type's type, since isinstance() would wake up the SDK's lazy objects.
            classes.update(found for found in vars(module).values() if issubclass(type(found), type))
    return [(cls, name, found) for cls in classes for name, found in vars(cls).items() if _is_wrapper(found)]


def installed(module: str) -> bool:
    """Whether *module* can be imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
