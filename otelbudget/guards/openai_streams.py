"""Answers of OpenAI's protocol that are read piece by piece: server-sent events, and bodies read after the call."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from otelbudget.errors import BudgetExceeded
from otelbudget.estimate.tokens import estimate_tokens
from otelbudget.guards.openai_usage import answer_usage, spoken, text_of
from otelbudget.guards.watch import Watch
from otelbudget.model.usage import Usage

if TYPE_CHECKING:
    from otelbudget.guards.charge import Charge

_END_OF_EVENT: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
#: The events of the Responses API that carry the whole response, with its usage.
_LAST_EVENTS: Final = ("response.completed", "response.incomplete", "response.failed")
#: Its deltas that are no text.
_BINARY_DELTAS: Final = ("response.audio.delta",)
#: Characters of output that are estimated together: a token at a time would be rounded up each time.
_TOGETHER: Final = 256
#: Characters after which the hold is looked at again.
_AT_LEAST: Final = 32


class StreamWatch(Watch):
    """Charges the usage of a stream, or what was seen of it; *hide_usage* where the application did not ask."""

    def __init__(self, charge: Charge, *, hide_usage: bool) -> None:
        super().__init__()
        self._charge = charge
        self._hide_usage = hide_usage
        self._kept = b""
        self._usage: Usage | None = None
        self._ended = False
        self._model: str | None = None
        self._response_id: str | None = None
        self._tokens = 0
        self._text = ""
        self._unheard = 0

    def pieces(self, chunk: bytes) -> Iterable[bytes]:
        """Whole events, so that the application takes one at a time and one can be hidden."""
        search_from = max(0, len(self._kept) - 3)
        data, begin, events = self._kept + chunk, 0, []
        while end := _END_OF_EVENT.search(data, search_from):
            events.append(data[begin : end.end()])
            begin = search_from = end.end()
        self._kept = data[begin:]
        return events

    def rest(self) -> Iterable[bytes]:
        """An event that was never finished."""
        return [self._kept] if self._kept else []

    def see(self, piece: bytes) -> bool:
        """Note what an event says; False for the usage that the application did not ask for."""
        data = _data_of(piece)
        if data.startswith(b"[DONE]"):
            self._ended = True
            return True
        try:
            event = json.loads(data) if data else None
        except ValueError:
            return True
        return self._note(event) if isinstance(event, dict) else True

    def _note(self, event: Mapping[str, Any]) -> bool:
        whole = event.get("response")
        answer = whole if isinstance(whole, Mapping) else event
        self._model = text_of(answer, "model") or self._model
        self._response_id = text_of(answer, "id") or self._response_id
        usage = answer_usage(answer, self._charge.request.provider)
        if usage is not None:
            self._usage = usage
        if event.get("type") in _LAST_EVENTS:
            self._ended = True
        if words := _words(event):
            self._count(words)
        return not (self._hide_usage and usage is not None and event.get("choices") == [])

    def _count(self, words: str) -> None:
        self._text += words
        self._unheard += len(words)
        if self._unheard < _AT_LEAST:
            return
        self._unheard = 0
        seen = self._seen()
        if len(self._text) > _TOGETHER:
            self._tokens, self._text = self._tokens + estimate_tokens(self._text), ""
        try:
            self._charge.call.grow(seen)
        except BudgetExceeded as denial:
            self.settled = True
            self._charge.lost(seen, denial)
            raise

    def _seen(self) -> int:
        """Estimate of the output seen so far; the maximum that was sent bounds it, as it does the model."""
        tokens = self._tokens + (estimate_tokens(self._text) if self._text else 0)
        maximum = self._charge.call.max_output_tokens
        return tokens if maximum is None else min(tokens, maximum)

    def complete(self) -> None:
        """Charge the usage that came with it, else the estimate of its input and the output seen."""
        if self._usage is None:
            self._usage = Usage(
                input_tokens=self._charge.call.input_tokens,
                output_tokens=self._seen(),
                model=self._model,
                provider=self._charge.request.provider,
                response_id=self._response_id,
                estimated=True,
            )
        self._charge.answered(self._usage)

    def lost(self, error: BaseException | None) -> None:
        """Charge the usage if it had come, else the input and the output seen."""
        if self._usage is not None or (self._ended and error is None):
            self.complete()
        else:
            self._charge.lost(self._seen(), error)


class BodyWatch(Watch):
    """Follows a plain answer whose body is read after the call, as ``with_streaming_response`` does."""

    def __init__(self, charge: Charge) -> None:
        super().__init__()
        self._charge = charge
        self._body = bytearray()

    def see(self, piece: bytes) -> bool:
        """Keep a copy until the answer is whole."""
        self._body += piece
        return True

    def complete(self) -> None:
        """Charge its usage."""
        self._charge.answered(json_usage(self._body, self._charge.request.provider))

    def lost(self, error: BaseException | None) -> None:
        """The model has worked, but what it made was not read."""
        self._charge.lost(0, error)


def json_usage(body: bytes | bytearray, provider: str) -> Usage | None:
    """The usage that a JSON answer reports, or None."""
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer_usage(answer, provider)


def _data_of(event: bytes) -> bytes:
    lines = (line for line in _LINE_END.split(event) if line.startswith(b"data:"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def _words(event: Mapping[str, Any]) -> str:
    """What the model says in this event: deltas of choices, or of the Responses API."""
    kind = event.get("type")
    if isinstance(kind, str):
        delta = event.get("delta")
        return delta if isinstance(delta, str) and kind not in _BINARY_DELTAS else ""
    choices = event.get("choices")
    if not isinstance(choices, list):
        return ""
    parts = [part for part in choices if isinstance(part, Mapping)]
    return "".join(text for part in parts for text in spoken([part.get("delta"), part.get("text")]))
