"""At most one GenAI instrumentor per client SDK, switched on where none is; and off again, if it was us.

By module, since several packages share an entry point. To add one: a module in `CANDIDATES`; an SDK: a key each.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

_log = logging.getLogger(__name__)


#: SDK -> modules of instrumentors in order of preference: official, OpenInference, OpenLLMetry. Each is alone in a
#: package of its name.
CANDIDATES: Final = {
    "openai": (
        "opentelemetry.instrumentation.genai.openai",
        "openinference.instrumentation.openai",
        "opentelemetry.instrumentation.openai",
    )
}
#: SDK -> the class of all these, and its client classes; its other classes are in ``resources``.
_INSTRUMENTORS: Final = {"openai": "OpenAIInstrumentor"}
_CLIENTS: Final = {"openai": ("OpenAI", "AsyncOpenAI")}


def instrument(sdk: str, providers: dict[str, Any]) -> Callable[[], None]:
    """Switch on the first instrumentor that is installed and works, if any; gives what switches it off."""
    there = {id(wrapper) for *_, wrapper in _wrappers(sdk)}
    for module in filter(installed, CANDIDATES[sdk]):
        try:
            instrumentor = getattr(import_module(module), _INSTRUMENTORS[sdk])()
            instrumentor.instrument(raise_exception_on_conflict=True, **providers)
        except Exception as error:  # noqa: BLE001 - a broken or mismatched instrumentor must not stop the application
            _log.warning("%s can't be switched on, trying the next: %s", package_of(module), error)
            continue
        if instrumentor.is_instrumented_by_opentelemetry:
            return partial(_remove, instrumentor, [found for found in _wrappers(sdk) if id(found[2]) not in there])
    return lambda: None


def package_of(module: str) -> str:
    """What to install for the instrumentor in *module*."""
    return module.replace(".", "-")


def _remove(instrumentor: Any, wrappers: list[tuple[type, str, Any]]) -> None:
    """Switch it off, unless somebody else has; the SDK's classes are as they were before it put *wrappers* on them."""
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
    for cls, name, wrapper in wrappers:
        # OpenLLMetry 0.62 leaves its wrappers, which go on; OpenInference 0.1 what was inherited as the class's own.
        left: Any = vars(cls).get(name)
        if left is wrapper:
            left = left.__wrapped__
            setattr(cls, name, left)
        if left is not None and left is getattr(super(cls, cls), name, None):
            delattr(cls, name)


def instrumented(sdk: str) -> bool:
    """Whether something instruments *sdk* already. The SDK has been imported."""
    by_logfire = any(vars(client).get("_is_instrumented_by_logfire") for client in _clients(sdk))
    return by_logfire or bool(_wrappers(sdk))


def _clients(sdk: str) -> list[type]:
    return [getattr(sys.modules[sdk], name) for name in _CLIENTS[sdk]]


def _is_wrapper(found: object) -> bool:
    return type(found).__name__.endswith("FunctionWrapper")  # wrapt's, whichever copy of it


def _wrappers(sdk: str) -> list[tuple[type, str, Any]]:
    """Every wrapper on a class of the SDK: (class, attribute, wrapper)."""
    classes = set(_clients(sdk))
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{sdk}.resources"):
            # The type's type, since isinstance() would wake up the SDK's lazy objects.
            classes.update(found for found in vars(module).values() if issubclass(type(found), type))
    return [(cls, name, found) for cls in classes for name, found in vars(cls).items() if _is_wrapper(found)]


def installed(module: str) -> bool:
    """Whether *module* can be imported; nothing is, not even what it is in."""
    package, *inside = module.split(".")
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    if spec is None or not inside or module in sys.modules:
        return spec is not None
    places = [Path(place, *inside) for place in spec.submodule_search_locations or ()]
    return any(place.is_dir() or place.with_suffix(".py").is_file() for place in places)
