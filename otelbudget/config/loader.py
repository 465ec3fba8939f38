"""A file to a `Config`: read it, compose it, read its nodes by the table of fields, look up what names mean."""

from __future__ import annotations

import os
from contextlib import suppress

from otelbudget.config.fields import FILE
from otelbudget.config.nodes import compose
from otelbudget.config.problems import refused
from otelbudget.config.reader import Reader
from otelbudget.config.settings import Config
from otelbudget.config.store import StoreConfig
from otelbudget.errors import ConfigError, Problem


def named(path: object) -> str:
    """*path* as text; ConfigError if it is no path."""
    source = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(source, str):
        raise ConfigError(f"a configuration is read from a path, got {path!r} ({type(path).__name__})")
    return source


def parse(data: bytes, source: str) -> Config:
    """The configuration that *data* says, the contents of the file *source*."""
    reader, root = Reader(source), compose(_text(data, source), source)
    values = FILE.read(reader, root, ())
    reader.check()
    store = values.pop("store", None) or StoreConfig()
    store = (StoreConfig(store) if isinstance(store, str) else store).beside(os.path.dirname(os.path.abspath(source)))
    try:
        return Config(**values, store=store, source=source, lines=reader.lines)
    except ConfigError as error:
        reader.refused(root, (), str(error))
        reader.check()
        raise


def _unreadable(source: str, message: str) -> ConfigError:
    return refused([Problem(source, None, None, "", message)])


def contents(source: str) -> bytes:
    """What is in the file *source*; ConfigError if it can't be read."""
    try:
        with open(source, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        where = ""
        with suppress(OSError):
            where = "" if os.path.isabs(source) else f" in {os.getcwd()}"
        raise _unreadable(source, f"there is no such file{where}") from error
    except (OSError, ValueError) as error:
        raise _unreadable(source, f"can't be read: {getattr(error, 'strerror', None) or error}") from error


def _text(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        utf16 = "; it looks like UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        message = f"the file is not UTF-8{utf16}; save it as UTF-8"
        raise refused([Problem(source, line, column, "", message)]) from error
