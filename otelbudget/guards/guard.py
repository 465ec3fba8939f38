"""`SdkGuard`: what the guards of all mechanisms have in common, how they come and go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from types import FunctionType
from typing import Any

from otelbudget import forking
from otelbudget.guards import patching, readers, watch
from otelbudget.guards.patching import Replaced, Takeover
from otelbudget.guards.sdks import Sdk


class SdkGuard(ABC):
    """The guard of one SDK; a mechanism says what it takes over."""

    _lock = forking.fresh_lock()
    #: Names of methods that lead to those that are taken over.
    _entries: tuple[str, ...] = ()

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk
        #: Classes that all clients derive from, and their methods that are taken over.
        self._taken: list[tuple[type, str]] = []
        self._calls: list[Takeover] = []
        self._notes: list[Takeover] = []
        self._replaced: list[Replaced] = []

    @abstractmethod
    def _take_over(self) -> None:
        """Put functions of ours in front of the SDK's, with `_take` and `_note`."""

    @property
    def module(self) -> str:
        """The module whose import means that the SDK is used."""
        return self._sdk.module

    def install(self) -> None:
        """Put the guard in, unless it is; an ImportError if the SDK is not installed."""
        with self._lock:
            if not self._calls:
                self._taken.clear()
                self._take_over()
                watch.notice_collections(self)

    def unreached(self) -> list[str]:
        """Names of client classes whose calls do not pass the guard; empty if all do. Sends nothing."""
        bases = dict.fromkeys(base for base, _ in self._taken)
        entries = [patching.innermost(getattr(base, name)) for base in bases for name in self._entries]
        return [
            f"{cls.__module__}.{cls.__qualname__}"
            for cls in patching.subclasses(*bases)
            if not all(patching.reaches(cls, name, self._takes) for base, name in self._taken if issubclass(cls, base))
            or not all(patching.reaches(cls, name, entries.__contains__) for name in self._entries)
        ]

    def _takes(self, function: FunctionType | None) -> bool:
        return any(takeover.takes(function) for takeover in self._calls)

    def uninstall(self) -> None:
        """Take the guard out; the SDK is then as it was before. Whatever still holds the guard passes through it."""
        with self._lock:
            taken_over: list[Takeover | Replaced] = [*self._calls, *self._notes, *self._replaced]
            for one in taken_over:
                one.undo()
            self._calls.clear()
            self._notes.clear()
            self._replaced.clear()
            watch.forget_collections(self)

    def _inside(self, name: str) -> Any:
        return import_module(f"{self._sdk.module}.{name}")

    def _take(self, cls: type, name: str, guard: Callable[..., Any]) -> None:
        if hasattr(cls, name):
            self._taken.append((cls, name))
        self._calls.extend(patching.take_over(vars(cls).get(name), guard))

    def _note_stream(self, cls: type, asynchronous: type) -> None:
        """Hear of who reads the streams of these classes."""
        self._replace(cls, "__iter__", readers.reading)
        self._replace(asynchronous, "__aiter__", readers.areading)
        for each in (cls, asynchronous):
            self._note(each, "__init__", readers.opening)

    def _replace(self, cls: type, name: str, guard: Callable[..., Any]) -> None:
        if name in vars(cls):
            self._replaced.append(Replaced(cls, name, guard))

    def _note(self, cls: type, name: str, guard: Callable[..., Any]) -> None:
        self._notes.extend(patching.take_over(vars(cls).get(name), guard))
