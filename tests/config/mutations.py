"""Mutated budgets.yaml files, the same ones every time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from otelbudget.config.fields import FILE
from otelbudget.config.nodes import compose

WHOLE = (Path(__file__).parents[2] / "budgets.yaml").read_text("utf-8")
SMALL = (
    "budgets: {quick: {max_steps: 5, max_tokens: 2k, max_seconds: 10s, max_cost_usd: $0.05, thresholds: [50%, 1]}}\n"
    "default_budget: quick\nagents: {a: quick, b: {max_steps: 1}}\n",
    "budgets:\n  deep:\n    max_steps: 40\n    max_tokens: 200k\n    wrap_up: {tokens: 4k, seconds: 20s}\n"
    "    on_exhausted: warn\n    on_unpriced: deny\n    max_depth: null\n",
    "tenants: {no: {org: globex}, acme: {org: 5}}\nrequire_tenant: true\n"
    "tenant_from: {span_attribute: tenant.id, baggage: tenant}\ntrust_reported_cost: false\n",
    "quotas:\n  org:\n    - {cost_usd: $500, per: month}\n  default:\n"
    "    - {tokens: 1M, per: day, timezone: Europe/Berlin, at: 06:00, reserve_for: {high: 20%, normal: 0.2}}\n"
    '    - {steps: 10, per: rolling 1h, on_exhausted: warn, name: spikes}\n  users: {"*": [{tokens: 9k, per: run}]}\n',
    "quotas:\n  tenants:\n    acme: &q [{input_tokens: 1k, per: week}, {output_tokens: 5, at: '00:30'}]\n"
    "    globex-*: *q\n  models:\n    demo-*: [{tool_calls: 5, nested_tool_calls: 2, thresholds: [80%]}]\n",
    "prices:\n  m: &m {input: $0.15, output: 0.60, cache_read: 0.01, per: 1M, discount: 10%}\n"
    "  n: {<<: *m, reasoning: 5}\non_unpriced: estimate\n",
    "quotas:\n  agents: {researcher: [{steps: 9}]}\n  conversations: {'*': [{cost_usd: 1, per: lifetime}]}\n"
    "  tags: {team: {search: [{tokens: 5k, per: week}]}}\n"
    "store: {url: sqlite:///a.db, timeout: 2s, ttl: 1m}\n",
    "estimates: {output_tokens: 1k, hold: expected, clamp: true, min_output_tokens: 8}\n"
    "telemetry: {events: both, max_tenants: 20, max_models: 10, top_runs: 0, metrics_port: 9470}\n",
)
VALUES = (
    "0", "1", "5", "-1", "-0", "+5", "007", "010", "0x1F", "0o17", "5:00", "1_000", "1__0", "1.5", "5.", ".5", "0.0",
    "1e3", "1e-3", "1.5e0", "1e99", "9e15", "1e999", "0e7", "5e-1", ".inf", "-.inf", ".nan", "NaN",
    "9007199254740991", "9007199254740992", "9007199254740.991k", "9007199254740.992k", "50k", "50K", "0.5k", "1.5M",
    "2B", "5m", "1 k", "0.0001k", "0k", "10.000", "1,000", "65535", "65536", "65.535k", "9007198.99", "9007199",
    "$2.50", "$ 2", "2 USD", "$9.007199M", "$0", "€2", "$-1", "$1e-6", "30s", "5m", "1h30m", "30m1h", "103d23h",
    "103d24h", "104d", "500ms", "8985599.9", "8985600", "1.5h", "80%", "0%", "100%", "100.0%", "100.1%", "0.0%",
    "1.0", "1.01", "8e-1", "80 %", "true", "True", "tRuE", "false", "yes", "no", "on", "off", "null", "~", "", "Null",
    "06:00", "6:00", "24:00", "0600", "day", "week", "month", "hour", "minute", "run", "lifetime", "daily",
    "rolling 24h", "rolling 1s", "rolling 367d", "rolling 366d", "rolling 0h", "rolling 007h", "rolling  1h",
    "rolling 31622400s", "rolling 31622401s", "UTC", "Europe/Berlin", "Europe/Atlantis", "../etc/passwd", "raise",
    "warn", "deny", "estimate", "allow", "max", "expected", "span", "log", "both", "quick", "deep", "a", "acme", "*",
    "demo-*", "${A}", "${A}k", "${NOPE}", "${NOPE:-3}", "${A", "$$5", "$$", "a b", "ü", "🙂", "a\u200bb", "\u202e5",
    "\x7f", "5\n", "5\t", " 5 ", "\u00a05", "x" * 201, "1" * 26, "0." + "1" * 40, "1.00000000000000000000",
    "2026-03-14", "1e+3", "\ud800", "memory", "sqlite:///a.db", "sqlite:////a/b.db", "sqlite://a.db", "redis://u:p@h",
)  # fmt: skip
PIECES = (
    *("{", "}", "[", "]", ":", ": ", ", ", "- ", "? ", "&a ", "*a", "<<: *a", "!!int ", "!x ", "|", ">", "%", "@", "`"),
    *("'", '"', "\\", "#", "\n", "\n  ", "\t", "---", "...", "${", "${A}", "${A:-", "$$", "null", "~", "yes", "5:00"),
    *("010", "1e999", "-1", "1.5", "50%", ".inf", "\x00", "\x7f", "\u2028", "\ufeff", "é", "🙂", "x" * 300),
    *("max_steps", "budgets", "tenants", "thresholds", "[" * 50, "{a: " * 50, "\\ud800", "\\U00110000"),
)


def names() -> list[str]:
    """Every setting's name, and some that are none."""
    found: list[str] = []

    def collect(kind: object) -> None:
        for name, field in getattr(kind, "fields", {}).items():
            found.append(name)
            collect(field.kind)
        for inner in ("item", "budget"):
            if hasattr(kind, inner):
                collect(getattr(kind, inner))

    collect(FILE)
    return [*dict.fromkeys(found), "max_stepz", "store", "<<", "no", "5", "", "a\tb", "${A}", "x" * 201]


NAMES = names()


def files(seed: int, number: int) -> Iterator[str]:
    """*number* texts: some with nodes mutated, some with characters, some with both; most of small files."""
    source = random.Random(seed)
    for i in range(number):
        text = WHOLE if i % 8 == 0 else source.choice(SMALL)
        how = source.random()
        if how < 0.9:
            text = with_other_nodes(source, text)
        if how > 0.85:
            text = with_noise(source, text)
        yield text


def with_other_nodes(source: random.Random, text: str) -> str:
    """*text* with one to three nodes dropped, doubled, renamed, swapped, or made something else."""
    root = compose(text, "seed")
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        mutate(source, root)
    try:
        return yaml.serialize(root, Dumper=yaml.BaseDumper, allow_unicode=True, width=1000)  # type: ignore[no-any-return]
    except (yaml.YAMLError, UnicodeError):
        return text


def with_noise(source: random.Random, text: str) -> str:
    """*text* with one to three pieces of it replaced by what YAML or we have a meaning for."""
    for _ in range(source.randint(1, 3)):
        start = source.randrange(len(text) + 1)
        end = min(len(text), start + source.choice((0, 0, 1, 2, 5, 20)))
        put = (
            source.choice(PIECES) if source.random() < 0.7 else text[(at := source.randrange(len(text) + 1)) : at + 40]
        )
        text = text[:start] + put + text[end:]
    return text


def mutate(source: random.Random, root: Node) -> None:
    nodes = list(walk(root))
    node = source.choice(nodes)
    if isinstance(node, ScalarNode):
        others = [other.value for other in nodes if isinstance(other, ScalarNode)]
        node.value = source.choice(others if source.random() < 0.3 else VALUES)
        node.style = source.choice((None, None, None, "'", '"', "|"))
    elif isinstance(node, SequenceNode):
        change_list(source, node, nodes)
    elif isinstance(node, MappingNode):
        change_mapping(source, node, nodes)


def change_list(source: random.Random, node: SequenceNode, nodes: list[Node]) -> None:
    if not node.value or source.random() < 0.4:
        node.value.append(source.choice(nodes) if source.random() < 0.3 else text_node(source))
    elif source.random() < 0.5:
        node.value.append(source.choice(node.value))
    else:
        node.value.pop(source.randrange(len(node.value)))


def change_mapping(source: random.Random, node: MappingNode, nodes: list[Node]) -> None:
    if not node.value or source.random() < 0.3:
        node.value.append((ScalarNode(node.tag[:-3] + "str", source.choice(NAMES)), text_node(source)))
        return
    i = source.randrange(len(node.value))
    key, value = node.value[i]
    how = source.random()
    if how < 0.25:
        node.value.pop(i)
    elif how < 0.35:
        node.value.append((key, value))
    elif how < 0.55:
        node.value[i] = (ScalarNode(key.tag, source.choice(NAMES)), value)
    elif how < 0.75:
        node.value[i] = (key, source.choice(nodes))  # an alias, now and then one to what encloses it
    elif how < 0.85:
        node.value[i] = (key, SequenceNode("tag:yaml.org,2002:seq", [value], flow_style=True))
    else:
        node.value[i] = (key, text_node(source))


def text_node(source: random.Random) -> Node:
    style = source.choice((None, None, "'", '"'))
    return ScalarNode("tag:yaml.org,2002:str", source.choice(VALUES), style=style)


def walk(root: Node) -> Iterator[Node]:
    """Every value, each once, however many aliases lead to it."""
    seen: set[int] = set()
    queue = [root]
    while queue:
        node = queue.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, SequenceNode):
            queue += node.value
        elif isinstance(node, MappingNode):
            queue += [value for _, value in node.value]
