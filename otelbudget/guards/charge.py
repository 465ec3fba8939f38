"""How a guarded call is charged when it is over, with what is known of its earlier attempts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from otelbudget.model.amounts import nanousd, usd
from otelbudget.model.usage import Usage

if TYPE_CHECKING:
    from decimal import Decimal

    from otelbudget.calls.model_call import ModelCall
    from otelbudget.calls.sizing import ModelRequest
    from otelbudget.guards.exchange import Exchange


class Charge:
    """One admitted call and its settlement. Attempts without an answer may have been worked on: each adds the input."""

    __slots__ = ("call", "exchange", "reported_cost_usd", "request")

    def __init__(self, call: ModelCall, request: ModelRequest, exchange: Exchange) -> None:
        self.call = call
        self.request = request
        self.exchange = exchange
        #: What a header of the answer says it cost, for a usage that does not say.
        self.reported_cost_usd: Decimal | None = None

    def answered(self, usage: Usage | None) -> None:
        """An answer arrived; None if it says no usage: then the hold is charged."""
        if usage is not None and usage.reported_cost_usd is None and self.reported_cost_usd is not None:
            usage = dataclasses.replace(usage, reported_cost_usd=self.reported_cost_usd)
        self.call.commit(usage and self._with_earlier(usage))

    def refused(self, usage: Usage | None, error: BaseException | None = None) -> None:
        """The server answered with an error, perhaps with a usage."""
        if self.exchange.earlier:
            usage = self._with_earlier(usage or Usage(input_tokens=0, output_tokens=0))
        self.call.failed(usage, error)

    def lost(self, error: BaseException | None, usage: Usage | None = None) -> None:
        """It was sent, no whole answer came: *usage* is what was seen of it, None if nothing."""
        if usage is None:
            usage = Usage(self.call.input_tokens, 0, model=self.request.model, provider=self.request.provider)
        self.call.unknown(error=error, usage=self._with_earlier(dataclasses.replace(usage, estimated=True)))

    def _with_earlier(self, usage: Usage) -> Usage:
        attempts = self.exchange.earlier
        if not attempts or usage.input_tokens is None:
            return usage
        more = usage.input_tokens + attempts * self.call.input_tokens
        whole = dataclasses.replace(usage, input_tokens=more, tokens=None, estimated=True)
        reported = usage.reported_cost_usd
        if reported and usage.tokens and whole.tokens:
            # It is the cost of the last attempt alone: the others are as dear for each token.
            nano = -(-nanousd("cost", reported) * whole.tokens // usage.tokens)
            return dataclasses.replace(whole, reported_cost_usd=usd(nano))
        return whole
