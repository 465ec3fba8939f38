"""Answers that are read piece by piece: streams of events, and bodies read after the call."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from otelbudget.estimate.tokens import estimate_tokens
from otelbudget.guards.caps import in_body, in_event
from otelbudget.guards.dialects import Dialect, text_of
from otelbudget.guards.watch import Watch
from otelbudget.model.usage import Usage

if TYPE_CHECKING:
    from otelbudget.guards.charge import Charge
    from otelbudget.guards.framing import Framing

#: Characters of output that are estimated together: a token at a time would be rounded up each time.
_TOGETHER: Final = 256
#: Characters after which the hold is looked at again.
_AT_LEAST: Final = 32


class StreamWatch(Watch):
    """Charges the usage of a stream, or what was seen of it; *hide_usage* where the application did not ask."""

    def __init__(self, charge: Charge, dialect: Dialect, framing: Framing, *, hide_usage: bool) -> None:
        super().__init__(charge)
        self._dialect = dialect
        self._framing = framing
        self._hide_usage = hide_usage
        self._kept = b""
        #: What the events have said about the answer as a whole.
        self._answer: dict[str, Any] = {}
        self._usage: Usage | None = None
        self._ended = self._capped = False
        self._tokens = 0
        self._text = ""
        self._unheard = 0
        #: What is to be paid for by now.
        self._due = 0

    def pieces(self, chunk: bytes) -> Iterable[bytes]:
        """Whole events, so that the application takes one at a time and one can be hidden."""
        events, self._kept = self._framing.cut(self._kept, chunk)
        return events

    def rest(self) -> Iterable[bytes]:
        """An event that was never finished."""
        return [self._kept] if self._kept else []

    def see(self, piece: bytes) -> bool:
        """Note what an event says; False for the usage that the application did not ask for."""
        data = self._framing.data(piece)
        if data.startswith(b"[DONE]"):
            self._ended = True
            return True
        try:
            event = json.loads(data) if data else None
        except ValueError:
            return True
        return self._note(event) if isinstance(event, dict) else True

    def _note(self, event: Mapping[str, Any]) -> bool:
        part = self._dialect.part(event)
        self._answer |= {name: said for name in ("model", "id", "service_tier") if (said := text_of(part, name))}
        self._answer |= {name: said for name in ("searches", "file_searches", "images") if (said := part.get(name))}
        if isinstance(usage := part.get("usage"), Mapping):
            told = {name: value for name, value in usage.items() if value is not None}
            self._answer["usage"] = self._answer.get("usage", {}) | told
            self._usage = self._dialect.usage(self._answer, self.charge.request.provider)
        self._capped = self._capped or in_event(event)
        self._ended = self._ended or self._dialect.ends(event, self._usage)
        if words := self._dialect.words(event):
            self._count(words)
        return not (self._hide_usage and self._dialect.only_usage(event))

    def _count(self, words: str) -> None:
        self._text += words
        self._unheard += len(words)
        if self._unheard < _AT_LEAST:
            return
        self._unheard = 0
        self._due = self._seen()
        if len(self._text) > _TOGETHER:
            self._tokens, self._text = self._tokens + self._estimated(), ""

    def pay(self) -> None:
        """Grow the hold; raises a denial, or what ``on_exhausted`` raises in its place."""
        seen, self._due = self._due, 0
        try:
            if seen:
                self.charge.grow(seen)
        except Exception as error:
            self.settled = self._cut = True
            self.charge.lost(error, self._so_far())
            raise

    def _seen(self) -> int:
        """Estimate of the output seen so far; the maximum that was sent bounds it, as it does the model."""
        tokens = self._tokens + self._estimated()
        maximum = self.charge.call.max_output_tokens
        return tokens if maximum is None else min(tokens, maximum)

    def _estimated(self) -> int:
        return estimate_tokens(self._text, self.charge.request.model)

    def _so_far(self) -> Usage:
        """The output seen, and the input as it was told or estimated."""
        if self._usage is not None:
            made = max(self._seen(), self._usage.output_tokens or 0)
            return dataclasses.replace(self._usage, output_tokens=made, tokens=None, estimated=True)
        request = self.charge.request
        return Usage(
            self.charge.call.input_tokens,
            self._seen(),
            model=self._answer.get("model") or request.model,
            provider=request.provider,
            response_id=self._answer.get("id"),
            estimated=True,
        )

    def complete(self) -> None:
        """Charge the usage that came with it, else the estimate of its input and the output seen."""
        if self._nothing_made():
            self.charge.refused(None)
            return
        told = self._usage is not None and self._ended
        self.charge.answered(self._usage if told else self._so_far())

    def lost(self, error: BaseException | None) -> None:
        """Charge the usage if it had come, else the input and the output seen."""
        if self._ended or self._nothing_made():
            self.complete()
        else:
            self.charge.lost(error, self._so_far())

    def _nothing_made(self) -> bool:
        """Whether a cap of the provider's has stopped it before it said anything."""
        return self._capped and self._usage is None and not (self._tokens or self._text)


class BodyWatch(Watch):
    """Follows a plain answer whose body is read after the call, as ``with_streaming_response`` does."""

    def __init__(self, charge: Charge, dialect: Dialect) -> None:
        super().__init__(charge)
        self._dialect = dialect
        self._body = bytearray()

    def see(self, piece: bytes) -> bool:
        """Keep a copy until the answer is whole."""
        self._body += piece
        return True

    def complete(self) -> None:
        """Charge its usage."""
        told = self._usage()
        if told is None and in_body(self._body):
            self.charge.refused(None)
        else:
            self.charge.answered(told)

    def lost(self, error: BaseException | None) -> None:
        """The model has worked, but what it made was not read; or it was, up to the end that nobody asked for."""
        usage = self._usage()
        self.charge.lost(error) if usage is None else self.charge.answered(usage)

    def _usage(self) -> Usage | None:
        return self._dialect.usage(json_body(self._body), self.charge.request.provider)


def json_body(raw: str | bytes | bytearray) -> Mapping[str, Any]:
    """What JSON says, if it is an object; else nothing."""
    try:
        body = json.loads(raw)
    except ValueError:
        return {}
    return body if isinstance(body, Mapping) else {}
