"""Cutting the body of a stream into its events: server-sent events, lines, messages of AWS, and what is cut already."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

_END_OF_EVENT: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
#: A message of AWS begins with its length and that of its headers; there is a checksum after those and at the end.
_PRELUDE: Final = 12
_CHECKSUM: Final = 4
_LONGEST: Final = 1 << 24


class Framing(NamedTuple):
    """*cut* takes what was kept and what has arrived, and gives whole events and what is to be kept; *data* is what an
    event says."""

    cut: Callable[[bytes, Any], tuple[list[Any], bytes]]
    data: Callable[[Any], bytes]


def framing_of(content_type: str) -> Framing | None:
    """How a body of this type is cut; None if it is one piece of JSON."""
    return next((framing for kind, framing in _BY_TYPE.items() if kind in content_type), SERVER_SENT_EVENTS)


def _cut_events(kept: bytes, chunk: bytes) -> tuple[list[bytes], bytes]:
    search_from = max(0, len(kept) - 3)
    data, begin, events = kept + chunk, 0, []
    while end := _END_OF_EVENT.search(data, search_from):
        events.append(data[begin : end.end()])
        begin = search_from = end.end()
    return events, data[begin:]


def _event_data(event: bytes) -> bytes:
    lines = (line for line in _LINE_END.split(event) if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def _cut_lines(kept: bytes, chunk: bytes) -> tuple[list[bytes], bytes]:
    *lines, kept = (kept + chunk).splitlines(keepends=True) or [b""]
    return ([*lines, kept], b"") if kept.endswith(b"\n") else (lines, kept)


def _cut_messages(kept: bytes, chunk: bytes) -> tuple[list[bytes], bytes]:
    data, messages = kept + chunk, list[bytes]()
    while len(data) >= _CHECKSUM:
        length = int.from_bytes(data[:4])
        if not _PRELUDE + _CHECKSUM <= length <= _LONGEST:
            return [*messages, data], b""  # it is something else, and none of it may be kept from its reader
        if len(data) < length:
            break
        messages.append(data[:length])
        data = data[length:]
    return messages, data


def _message_data(message: bytes) -> bytes:
    return chunk_data(message[_PRELUDE + int.from_bytes(message[4:8]) : -_CHECKSUM])


def chunk_data(payload: bytes) -> bytes:
    """What Bedrock says in a chunk of an invoked model: base64 in JSON."""
    try:
        return base64.b64decode(json.loads(payload)["bytes"])
    except (ValueError, LookupError, TypeError):
        return b""


SERVER_SENT_EVENTS: Final = Framing(_cut_events, _event_data)
_AWS_MESSAGES: Final = Framing(_cut_messages, _message_data)
_BY_TYPE: Final[dict[str, Framing | None]] = {
    "vnd.amazon.eventstream": _AWS_MESSAGES,
    "stream+json": Framing(_cut_lines, bytes.strip),
    "json": None,
}
#: For events that the SDK has cut and read itself.
PARSED: Final = Framing(
    lambda kept, event: ([event], kept),
    lambda event: json.dumps(event, default=lambda value: getattr(value, "__dict__", None)).encode(),
)
