"""A budgets.yaml is read strictly: all that is wrong is said at once, each with its place, and nothing is skipped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

import otelbudget
from otelbudget.config import Config, Estimates, TelemetryConfig, load_budget_config
from otelbudget.errors import ConfigError
from otelbudget.model.budget import RunBudget
from otelbudget.pricing import Price, Prices

ROOT = Path(__file__).parents[2]
Read = Callable[..., Config]
Refuse = Callable[..., list[str]]

# --- what may stand in it


def test_the_seed_format_is_read(read: Read) -> None:
    config = read(
        "budgets:\n"
        "  quick_answer:\n    max_steps: 5\n    max_tokens: 2000\n    max_seconds: 10\n    max_nested_tool_calls: 2\n"
    )
    assert config["quick_answer"] == RunBudget(
        max_steps=5, max_tokens=2000, max_seconds=10, max_nested_tool_calls=2, name="quick_answer"
    )
    assert config.source == "b.yaml"


def test_every_setting_of_a_budget_is_read(read: Read) -> None:
    config = read("""
budgets:
  full:
    max_steps: 40
    max_tokens: 1.5M
    max_input_tokens: 1M
    max_output_tokens: 500k
    max_cost_usd: $2.50
    max_seconds: 1h30m
    max_tool_calls: 100
    max_nested_tool_calls: null
    max_depth: 3
    on_exhausted: warn
    wrap_up: {tokens: 4k, seconds: 500ms, cost_usd: $0.10}
    thresholds: [50%, 0.9]
    on_unpriced: estimate
prices: {"*": {input: 1}}
""")
    assert config["full"] == RunBudget(
        max_steps=40,
        max_tokens=1_500_000,
        max_input_tokens=1_000_000,
        max_output_tokens=500_000,
        max_cost_usd=Decimal("2.50"),
        max_seconds=5_400,
        max_tool_calls=100,
        max_depth=3,
        name="full",
        on_exhausted="warn",
        wrap_up={"tokens": 4_000, "seconds": Decimal("0.5"), "cost_usd": Decimal("0.10")},
        thresholds=(0.5, 0.9),
        on_unpriced="estimate",
    )


def test_every_other_section_is_read(read: Read) -> None:
    config = read("""
budgets: {quick: {max_steps: 5}}
default_budget: quick
agents:
  researcher: quick
  helper: {max_steps: 1}
prices:
  big: {input: $2.50, output: $10, cache_read: 1.25, cache_write: 3, reasoning: 12}
  "*-mini": {input: $0.0004, per: 1k, discount: 10%}
on_unpriced: deny
estimates: {output_tokens: 1k}
telemetry: {events: span, max_tenants: 20, max_models: 10, top_runs: 0, metrics_port: 9470}
""")
    quick = RunBudget(max_steps=5, name="quick")
    assert config == Config(
        {"quick": quick},
        default_budget=quick,
        agents={"researcher": quick, "helper": RunBudget(max_steps=1, name="helper")},
        prices={
            "big": Price(input=Decimal("2.50"), output=10, cache_read=Decimal("1.25"), cache_write=3, reasoning=12),
            "*-mini": Price(input=Decimal("0.0004"), per=1_000, discount=Decimal("0.1")),
        },
        on_unpriced="deny",
        estimates=Estimates(output_tokens=1_000),
        telemetry=TelemetryConfig(max_tenants=20, max_models=10, top_runs=0, metrics_port=9470),
    )


def test_a_default_budget_may_stand_alone(read: Read) -> None:
    config = read("default_budget: {max_cost_usd: $0.05}\n")
    assert config.default_budget == RunBudget(max_cost_usd=Decimal("0.05"), name="default")
    assert len(config) == 0
    assert read("default_budget: null\n").default_budget is None


def test_sections_without_content_are_empty_ones(read: Read) -> None:
    assert read("budgets:\nagents:\nprices:\nestimates:\ntelemetry:\ndefault_budget:\n") == Config()


def test_a_budget_without_limits_has_to_be_said(read: Read, refuse: Refuse) -> None:
    assert read("budgets: {free: {}}")["free"] == RunBudget(name="free")
    assert refuse("budgets:\n  free:\n") == ["b.yaml:2:8: budgets.free: must be a mapping, got nothing"]
    assert refuse("budgets: {a: {max_steps: }}") == [
        "b.yaml:1:25: budgets.a.max_steps: must be a whole number such as 5, 50k or 1.5M, or null for no limit, "
        "got nothing"
    ]


@pytest.mark.parametrize(
    "name", ["no", "yes", "on", "off", "null", "~", "1", "1.0", "5:00", "010", "=", "2026-03-14", "ü", "a b"]
)
def test_names_stay_the_texts_that_they_are(read: Read, name: str) -> None:
    config = read(f"budgets: {{{name}: {{max_steps: 1}}}}\nagents: {{{name}: '{name}'}}\ndefault_budget: '{name}'\n")
    assert list(config) == [name]
    assert config.agents[name] is config.default_budget is config[name]
    assert config[name].name == name


@pytest.mark.parametrize("written", ["a$b", "a$$b"])
def test_a_dollar_is_written_in_names_as_in_values(read: Read, written: str) -> None:
    config = read(f"budgets: {{'{written}': {{}}}}\nagents: {{'$$x': '{written}'}}\ndefault_budget: '{written}'\n")
    assert (list(config), config.default_budget) == (["a$b"], config["a$b"])
    assert config.agents == {"$x": config["a$b"]}


def test_two_ways_to_write_one_name_are_one_name(refuse: Refuse) -> None:
    assert refuse("budgets:\n  a$b: {}\n  a$$b: {}\n") == ["b.yaml:3:3: budgets.'a$b': is given twice, first in line 2"]


def test_a_plain_no_is_the_budget_of_that_name(read: Read) -> None:
    config = read("budgets: {no: {max_steps: 1}, on: {max_steps: 2}}\ndefault_budget: no\nagents: {a: on}\n")
    assert config.default_budget is config["no"]
    assert config.agents["a"] is config["on"]


def test_anchors_are_followed_and_merge_keys_are_not(read: Read, refuse: Refuse) -> None:
    config = read("budgets:\n  base: &base {max_steps: 5, max_tokens: 1k}\n  same: *base\n")
    assert config["same"] == RunBudget(max_steps=5, max_tokens=1_000, name="same")
    (line,) = refuse("budgets:\n  base: &base {max_steps: 5}\n  more: {<<: *base, max_steps: 9}\n")
    assert line.startswith("b.yaml:3:10: budgets.more: YAML's merge keys are not understood; write the settings out")


def test_prices_keep_the_order_of_the_file(read: Read) -> None:
    prices = read('prices: {"a*": {input: 1}, "*b": {input: 2}}').prices
    assert prices == Prices({"a*": Price(input=1), "*b": Price(input=2)})
    assert prices != Prices({"*b": Price(input=2), "a*": Price(input=1)})


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(read: Read) -> None:
    assert read("\ufeffbudgets:\r\n  a:\r\n    max_steps: 5\r\n")["a"].max_steps == 5


def test_the_files_that_ship_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUPPORT_CHAT_USD", raising=False)
    config = load_budget_config(ROOT / "budgets.yaml")
    assert config["quick_answer"] == RunBudget(
        max_steps=5, max_tokens=2000, max_seconds=10, max_nested_tool_calls=2, name="quick_answer"
    )
    assert config["support_chat"].max_cost_usd == Decimal("0.05")
    assert {"demo-small", "demo-large", "demo-embed"} <= set(config.prices.models)
    assert otelbudget.load_budget_config(str(ROOT / "budgets.yaml")) == config


def test_reading_needs_yaml_and_making_does_not() -> None:
    code = "import sys, otelbudget.config as c; c.Config(); assert not {'yaml', 'genai_prices'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- variables, as OpenTelemetry's configuration replaces them


@pytest.mark.parametrize(
    ("written", "steps"),
    [
        ("${STEPS}", 7),
        ("${env:STEPS}", 7),
        ('"${STEPS}"', 7),
        ("${STEPS}k", 7_000),
        ("${NOTHING:-3}", 3),
        ("${EMPTY:-3}", 3),
        ("${STEPS:-3}", 7),
        ("1${STEPS}${STEPS}", 177),
    ],
)
def test_variables_are_replaced_in_values(read: Read, written: str, steps: int) -> None:
    config = read(f"budgets:\n  a:\n    max_steps: {written}\n", STEPS="7", EMPTY="")
    assert config["a"].max_steps == steps


def test_two_dollars_are_one_and_one_dollar_is_itself(read: Read) -> None:
    config = read(
        "budgets:\n  ${X}: {}\n".replace("${X}", "a$b") + "  c: {max_cost_usd: $$2}\n  d: {max_cost_usd: $3}\n"
    )
    assert [config["c"].max_cost_usd, config["d"].max_cost_usd] == [2, 3]
    assert "a$b" in config


def test_a_variable_can_be_a_name_but_no_structure(read: Read, refuse: Refuse) -> None:
    text = "budgets: {a: {max_steps: 1}}\ndefault_budget: ${NAME}\n"
    assert read(text, NAME="a").default_budget == RunBudget(max_steps=1, name="a")
    assert refuse(text, NAME="{max_steps: 9}") == [
        "b.yaml:2:17: default_budget: '${NAME}' is not the name of a budget; known are a"
    ]


def test_values_of_variables_are_never_shown(refuse: Refuse) -> None:
    (line,) = refuse("budgets: {a: {max_steps: '${SECRET}'}}", SECRET="sk-very-secret")
    assert "${SECRET}" in line
    assert "very" not in line


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("${NOTHING}", "the environment variable NOTHING is not set; ${NOTHING:-default} gives a default"),
        ("${EMPTY}", "the environment variable EMPTY is empty; ${EMPTY:-default} gives a default"),
        ("${1X}", "'${1X}' is not understood; write ${NAME} or ${NAME:-default}"),
        ("${X:?wrong}", "'${X:?wrong}' is not understood; write ${NAME} or ${NAME:-default}"),
        ("${X", "'${X' is not understood; write ${NAME} or ${NAME:-default}"),
        ("$${X}", "must be a whole number such as 5, 50k or 1.5M, or null for no limit, got '$${X}'"),
        ("${REPLACE}", "must be a whole number such as 5, 50k or 1.5M, or null for no limit, got '${REPLACE}'"),
    ],
)
def test_variables_that_can_not_be_replaced_are_errors(refuse: Refuse, written: str, says: str) -> None:
    text = f"budgets:\n  a:\n    max_steps: {written}\n"
    assert refuse(text, EMPTY="", REPLACE="${STEPS}", STEPS="7") == [f"b.yaml:3:16: budgets.a.max_steps: {says}"]


# --- what is wrong


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("budgets: {a: {on_unpriced: estimate}}\n", "1:1: on_unpriced of budget 'a'"),
        ("agents: {b: {on_unpriced: estimate}}\n", "1:1: on_unpriced of budget 'b'"),
        ("on_unpriced: estimate\nprices:\n", "1:14: on_unpriced: on_unpriced"),
    ],
)
def test_an_estimate_without_a_price_is_wrong_wherever_it_is_said(refuse: Refuse, text: str, what: str) -> None:
    (line,) = refuse(text)
    assert line.startswith(f"b.yaml:{what} is 'estimate', which takes the dearest of the given prices, and there are")


def test_everything_that_is_wrong_is_said_at_once_in_order(refuse: Refuse) -> None:
    assert refuse("""\
budgets:
  quick:
    max_stepz: 5
    max_tokens: 5:00
    on_exhausted: stop
  quick: {max_steps: -1}
  "odd name": {thresholds: [80%, 120%]}
default_budget: quik
tenants: {acme: {}}
prices: {m: {output: 5}}
telemetry: {events: logs}
""") == [
        "b.yaml:3:5: budgets.quick.max_stepz: unknown setting; did you mean 'max_steps'?",
        "b.yaml:4:17: budgets.quick.max_tokens: must be a whole number such as 5, 50k or 1.5M, or null for no limit, "
        "got '5:00'; YAML 1.1 takes colons for base 60; write a plain number",
        "b.yaml:5:19: budgets.quick.on_exhausted: must be raise or warn, got 'stop'",
        "b.yaml:6:3: budgets.quick: is given twice, first in line 2",
        "b.yaml:7:34: budgets.'odd name'.thresholds.1: must be a ratio from 0 to 1, such as 10%, got '120%'; "
        "that is more than all",
        "b.yaml:8:17: default_budget: 'quik' is not the name of a budget; did you mean 'quick'?",
        "b.yaml:9:17: tenants.acme: org is missing",
        "b.yaml:10:13: prices.m: input is missing",
        "b.yaml:11:21: telemetry.events: must be span or log or both, got 'logs'; did you mean 'log'?",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("budget: {}", "1:1: budget: unknown setting; did you mean 'budgets'?"),
        ("budgets: {a: {zzzzzz: 1}}", "1:15: budgets.a.zzzzzz: unknown setting; known are max_steps, max_tokens"),
        ("budgets: [a]", "1:10: budgets: must be a mapping, got a list"),
        ("budgets: {a: 5}", "1:14: budgets.a: must be a mapping, got '5'"),
        ("budgets: {a: {max_steps: [1]}}", "1:26: budgets.a.max_steps: must be a whole number such as 5"),
        ("budgets: {a: {max_steps: {b: 1}}}", "50k or 1.5M, got a mapping"),
        ("budgets: {a: {thresholds: 80%}}", "must be a list of ratios, such as [80%, 100%], got '80%'"),
        ("budgets: {a: {thresholds: [0]}}", "a threshold must be a ratio above 0 and at most 1, got 0.0"),
        ("budgets: {a: {on_exhausted: stop}}", "1:29: budgets.a.on_exhausted: must be raise or warn, got 'stop'"),
        ("budgets: {a: {wrap_up: {tokens: 5}}}", "1:24: budgets.a.wrap_up: wrap_up sets tokens aside, but max_tokens"),
        ("budgets: {a: {max_tokens: 1, wrap_up: {tokens: 5}}}", "1:39: budgets.a.wrap_up: wrap_up sets 5 tokens aside"),
        ("budgets: {a: {wrap_up: {depth: 5}}}", "1:25: budgets.a.wrap_up.depth: unknown setting"),
        ("budgets: {a: {max_cost_usd: 0.0000000001}}", "budgets.a.max_cost_usd: max_cost_usd is less than a nano-USD"),
        ("budgets: {a: {max_seconds: 1e-12}}", "1:28: budgets.a.max_seconds: max_seconds is less than a nanosecond"),
        ("quotas: {org: [{cost_usd: 1e-10}]}", "quotas.org.0: quota: cost_usd is less than a nano-USD (1e-9), got "),
        ("default_budget: 5", "1:17: default_budget: '5' is not the name of a budget; there are none"),
        ("default_budget: [a]", "1:17: default_budget: must be a mapping, got a list"),
        ("agents: {a: null}", "1:13: agents.a: must be a budget or the name of one, got 'null'"),
        ("agents: {a: }", "agents.a: must be a budget or the name of one, got nothing"),
        ("agents: {a: {max_stepz: 1}}", "1:14: agents.a.max_stepz: unknown setting; did you mean 'max_steps'?"),
        ("prices: {m: {input: free}}", "1:21: prices.m.input: must be an amount of money such as $2.50, got 'free'"),
        ("prices: {m: {input: null}}", "1:21: prices.m.input: must be an amount of money such as $2.50, got 'null'"),
        ("prices: {m: {input: 1, per: 0}}", "1:29: prices.m.per: per must be at least 1 token"),
        ("prices: {m: {input: 1, discount: 10}}", "1:34: prices.m.discount: must be a ratio from 0 to 1, such as 10%"),
        ("estimates: {output_tokens: 0}", "1:28: estimates.output_tokens: estimates.output_tokens must be at least"),
        ("estimates: {hold: most}", "1:19: estimates.hold: must be max or expected, got 'most'"),
        ("estimates: {clamp: yes}", "1:20: estimates.clamp: must be true or false, got 'yes'; write true"),
        ("estimates: {min_output_tokens: 0}", "1:32: estimates.min_output_tokens: estimates.min_output_tokens must be"),
        ("telemetry: {metrics_port: 70k}", "1:27: telemetry.metrics_port: telemetry.metrics_port must be from 0 to"),
        ("store: {colour: red}", "1:9: store.colour: unknown setting; known are url, timeout, ttl"),
        ("on_store_error: fail_open", "1:1: on_store_error: unknown setting"),
        ("on_unpriced: maybe", "1:14: on_unpriced: must be deny or estimate or allow, got 'maybe'"),
        # a word that is nearly one of those
        ("budgets: {a: {on_exhausted: warm}}", "must be raise or warn, got 'warm'; did you mean 'warn'?"),
        ("estimates: {hold: mx}", "must be max or expected, got 'mx'; did you mean 'max'?"),
        ("telemetry: {events: spn}", "must be span or log or both, got 'spn'; did you mean 'span'?"),
        ("on_unpriced: Denny", "must be deny or estimate or allow, got 'Denny'; did you mean 'deny'?"),
        # what is no YAML, or none of ours
        ("", "b.yaml:1:1: the file is empty; it must hold at least `budgets:`"),
        ("# nothing\n", "b.yaml:1:1: the file is empty"),
        ("---\n...\n", "2:1: must be a mapping, got nothing"),
        ("null", "1:1: must be a mapping, got 'null'"),
        ("- a", "1:1: must be a mapping, got a list"),
        ("hello", "1:1: must be a mapping, got 'hello'"),
        ("budgets: {}\n---\nbudgets: {}\n", "2:1: a second document begins here; only one is read"),
        ("budgets:\n\ta: {}", "2:1: found character '\\t' that cannot start any token while scanning for the next "
         "token; indent with spaces, not tabs"),
        ("prices: {*-mini: {input: 1}}", "has to stand in quotes"),
        ("budgets: {a: {max_steps: ${X}}}", 'inside { } a ${VARIABLE} has to stand in quotes: "${VARIABLE}"'),
        ("budgets: {a: {max_steps: 5", "expected ',' or '}'"),
        ("budgets: *nowhere", "1:10: found undefined alias 'nowhere'"),
        ("budgets: !!python/object:os.system {}", "1:10: budgets: YAML tags such as"),
        ("budgets: {a: {max_steps: !!int '5'}}", "1:26: budgets.a.max_steps: YAML tags such as"),
        ("budgets: {? [a] : {}}", "1:13: budgets: a name must be a text, got a list"),
        ('budgets: {"": {}}', "1:11: budgets: a name must have 1 to 200 printable characters, got ''"),
        ('budgets: {"a\\e[31m": {}}', "got 'a\\x1b[31m'"),
        (f"budgets: {{{'x' * 201}: {{}}}}", "a name must have 1 to 200 printable characters"),
        ('budgets: {"${A}": {}}', "1:11: budgets: variables are replaced in values, not in names: '${A}'"),
        ("budgets: \x00", "1:10: YAML does not allow the character U+0000"),
        ("a: 1\nb: \x07", "2:4: YAML does not allow the character U+0007"),
        ('budgets: "\\U00110000"', "not understood: chr() arg not in range"),
        ("%YAML 1." + "9" * 5_000 + "\n--- {}", "not understood: Exceeds the limit"),
        ("%YAML 9.0\n--- {}", "found incompatible YAML document"),
        ("[" * 500, "nested too deeply"),
        ("{a: " * 500, "nested too deeply"),
        ("budgets: &a {b: *a}", "1:14: budgets.b.b: unknown setting"),
    ],
)  # fmt: skip
def test_each_mistake_has_a_message_with_its_place(refuse: Refuse, text: str, says: str) -> None:
    lines = refuse(text)
    assert says in lines[0]
    assert lines[0].startswith("b.yaml:")


def test_an_alias_to_a_wrong_value_is_said_once(refuse: Refuse) -> None:
    assert refuse("budgets: {a: &a {x: 1}, b: *a, c: *a}")[1:] == []


def test_a_flood_of_mistakes_is_cut(refuse: Refuse) -> None:
    lines = refuse("".join(f"x{i}: 1\n" for i in range(200)))
    assert len(lines) == 51
    assert lines[-1] == "b.yaml:51:1: and 150 more from here on"


# --- files that can't be read


def test_a_file_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refused:
        load_budget_config("nowhere.yaml")
    assert str(refused.value) == f"nowhere.yaml: there is no such file in {tmp_path}"
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: there is no such file$"):
        load_budget_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (".", "Is a directory"),
        ("a\0b", "embedded null"),
        (None, "a configuration is read from a path, got None"),
        (5, "a configuration is read from a path, got 5"),
        (b"x.yaml", "a configuration is read from a path"),
    ],
)
def test_what_is_no_readable_path_is_refused(path: object, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        load_budget_config(tmp_path / path if path == "." else path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"budgets:\n  caf\xe9: {}\n", "b.yaml:2:6: the file is not UTF-8; save it as UTF-8"),
        ("budgets: {}".encode("utf-16"), "b.yaml:1:1: the file is not UTF-8; it looks like UTF-16; save it as UTF-8"),
    ],
)
def test_files_that_are_no_text_of_ours_are_refused(
    data: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.yaml").write_bytes(data)
    with pytest.raises(ConfigError) as refused:
        load_budget_config("b.yaml")
    assert str(refused.value) == says


def test_the_process_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTELBUDGET_TEST_STEPS", "4")
    path = tmp_path / "b.yaml"
    path.write_text("budgets:\n  a:\n    max_steps: ${OTELBUDGET_TEST_STEPS}\n")
    assert load_budget_config(path)["a"].max_steps == 4
