"""``otelbudget prices``: what a model costs here, and whose price that is."""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from typing import Any

from otelbudget.bootstrap.arguments import configuration
from otelbudget.config.problems import close_to
from otelbudget.guards.providers import provider_at
from otelbudget.pricing import Prices
from otelbudget.pricing.listed import listed_models
from otelbudget.pricing.rates import APART, EACH, PARTS, Known, Rates


def arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", metavar="show|list", required=True)
    show = what.add_parser("show", help="what one model costs; exit code 1 if no price is known")
    show.add_argument("model", metavar="MODEL")
    where = show.add_mutually_exclusive_group()
    where.add_argument("--base-url", metavar="URL", help="the address that the client calls")
    show.add_argument("--tier", metavar="NAME", help="the service tier, such as priority, flex or batch")
    everything = what.add_parser("list", help="all models with a price: those of the file, then those of genai-prices")
    for command, group in ((show, where), (everything, everything)):
        group.add_argument("--provider", metavar="NAME", help="who answers, such as openai or aws.bedrock")
        command.add_argument("--json", action="store_true", help="for programs")
        command.add_argument("--file", metavar="FILE", help="whose prices come first (default as setup() finds it)")


def run(options: argparse.Namespace) -> int:
    """Write the prices to standard output; gives 1 if there is none."""
    prices = configuration(options.file)[0].prices
    found = list(_of_one(prices, options) if options.what == "show" else _of_all(prices, options.provider))
    if options.json:
        print(json.dumps(next(iter(found), None) if options.what == "show" else found, indent=2))
    elif not found:
        print(_unknown(prices, getattr(options, "model", "")))
    elif options.what == "show":
        _write(found[0])
    else:
        for one in found:
            print(f"{one['model']:<44} {_said(one['usd'])}  ({one['source']})")
    return 0 if found else 1


def _unknown(prices: Prices, model: str) -> str:
    """That there is no price, and what to do."""
    listed = [name for _, name in listed_models()]
    meant = close_to(model, [*prices.table(), *listed])
    advice = "add one under `prices:`" + ("" if listed else ", or install the extra `prices`")
    return f"no price is known{f' of {model!r}' if model else ''}; {meant or advice}"


def _of_one(prices: Prices, options: argparse.Namespace) -> Any:
    provider = options.provider if options.base_url is None else provider_at(options.base_url)
    known = prices.known(options.model, provider, tier=options.tier)
    return [] if known is None else [_fact(options.model, known)]


def _of_all(prices: Prices, provider: str | None) -> Any:
    yield from (_fact(name, known) for name, known in prices.table().items())
    for owner, model in listed_models(provider):
        known = None if prices.entry(model, owner) else prices.known(model, owner)
        if known is not None:
            yield _fact(model, known)


def _fact(model: str, known: Known) -> dict[str, Any]:
    above = [{"input_tokens_above": start, "usd": _usd(rates)} for start, rates in known.above]
    return {"model": model, "source": known.source, "usd": _usd(known.rates), "above": above}


def _usd(rates: Rates) -> dict[str, float]:
    """USD per million tokens, of what is priced by the piece for each."""
    nano = {part: Fraction(getattr(rates, part), rates.scale) for part in PARTS}
    fields = {field: name for name, (field, _) in APART.items()}
    nano |= {fields[field]: Fraction(rate, rates.scale) for field, _, rate in rates.apart}
    return {name: float(rate / (10**9 if name in EACH else 1_000)) for name, rate in nano.items()}


def _said(usd: dict[str, float]) -> str:
    return ", ".join(f"{name} ${price:g}" for name, price in usd.items())


def _write(one: dict[str, Any]) -> None:
    print(f"{one['model']}, priced by {one['source']}; USD per million tokens, or for each")
    print(f"  {_said(one['usd'])}")
    for other in one["above"]:
        print(f"  above {other['input_tokens_above']:,} input tokens: {_said(other['usd'])}")
