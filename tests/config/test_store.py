"""Where accounts are kept is an address that is understood whole, from the folder of the file that says it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import otelbudget
from otelbudget import Quota, Quotas
from otelbudget.config import Config, StoreConfig, load_budget_config
from otelbudget.engine.engine import Engine
from otelbudget.errors import ConfigError

Read = Callable[..., Config]
Refuse = Callable[..., list[str]]


def test_the_memory_of_the_process_is_the_default(read: Read) -> None:
    assert StoreConfig() == StoreConfig("memory", timeout_s=5, ttl_s=60)
    assert read("budgets: {}").store == read("store:").store == Config().store == StoreConfig()
    assert StoreConfig().path is None


def test_every_setting_of_a_store_is_read(read: Read) -> None:
    store = read("store: {url: sqlite:////var/lib/a b.db, timeout: 250ms, ttl: 2m}").store
    assert store == StoreConfig("sqlite:////var/lib/a b.db", timeout_s=0.25, ttl_s=120.0)
    assert (store.path, type(store.timeout_s)) == ("/var/lib/a b.db", float)
    assert read("store: {ttl: 90}").store == StoreConfig(ttl_s=90)
    policy = read("store: {url: redis://h, on_error: local_fallback, fallback_share: 25%}").store
    assert policy == StoreConfig("redis://h", on_error="local_fallback", fallback_share=0.25)


def test_a_server_has_a_shorter_timeout_and_no_path(read: Read) -> None:
    for url in ("redis://h:6379/0", "rediss://u:p@h", "unix:///run/redis.sock?db=2", "redis+cluster://a:1,b:2"):
        store = read(f"store: '{url}'").store
        assert store == StoreConfig(url) == StoreConfig(url, timeout_s=0.25, ttl_s=60)
        assert (store.is_server, store.path) == (True, None)
    assert StoreConfig("redis://h", timeout_s=5).timeout_s == 5


@pytest.mark.parametrize("secret", ["pw", "p@w", "p/w", "p?w", "p#w"])
def test_a_store_shows_no_password_of_its_address(secret: str) -> None:
    config = Config(store=f"redis://user:s3cr{secret}et@host:6379/0")
    assert repr(config.store) == "StoreConfig('redis://***@host:6379/0', timeout_s=0.25, ttl_s=60)"
    assert "et@" not in f"{config!r} {config.store}"
    assert "s3cret" not in repr(StoreConfig("unix:///run/redis.sock?password=s3cret"))


@pytest.mark.parametrize("field", ["org", "models", "tags"])
def test_what_counts_tenants_together_has_no_quota_where_they_are_kept_apart(field: str) -> None:
    listed: Any = [Quota(tokens=5)]
    found = {"org": listed, "models": {"m": listed}, "tags": {"team": {"a": listed}}}[field]
    quotas = Quotas(**{field: found})
    apart = StoreConfig("redis://h", shard_by="tenant")
    Config(quotas=Quotas(default=listed, users={"*": listed}), store=apart)
    with pytest.raises(ConfigError, match=rf"quotas\.{field} counts several tenants together"):
        Config(quotas=quotas, store=apart)
    with pytest.raises(ConfigError, match=rf"quotas\.{field} counts several tenants together"):
        otelbudget.setup(Config(quotas=quotas), store=apart, instrument=False, exporter="none", metrics_port=None)


def test_an_address_alone_is_enough(read: Read) -> None:
    assert read("store: sqlite:////var/a.db").store == StoreConfig("sqlite:////var/a.db")
    assert read("store: ${STORE:-memory}").store == StoreConfig()
    assert Config(store="sqlite:///a.db").store == Config(store=StoreConfig("sqlite:///a.db")).store


def test_a_relative_path_begins_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "budgets.yaml").write_text("store: sqlite:///${NAME:-data}/b.db\n")
    monkeypatch.chdir(tmp_path)
    assert load_budget_config("conf/budgets.yaml").store.path == f"{folder}/data/b.db"
    monkeypatch.chdir(folder)
    assert load_budget_config("budgets.yaml").store.url == f"sqlite:///{folder}/data/b.db"


def test_the_folder_of_the_file_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a#b ?c%20:d"
    folder.mkdir()
    (folder / "b.yaml").write_text("store: sqlite:///b.db\n")
    assert load_budget_config(folder / "b.yaml").store.path == f"{folder}/b.db"


def test_it_pickles_with_the_configuration() -> None:
    config = Config(store=StoreConfig("sqlite:////a.db", ttl_s=5))
    assert pickle.loads(pickle.dumps(config)) == config != Config()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("store: redis:/h", "or redis://host:port/db, got 'redis:/h'; the schemes"),
        ("store: {url: postgres://h/db}", "1:14: store.url: must be memory, sqlite:///path.db or redis://"),
        ("store: {url: redis+x://h}", "the schemes are memory, sqlite, redis, rediss, unix, redis+cluster and redis+s"),
        ("store: sqlite://b.db", "got 'sqlite:...'; three slashes begin a path from here, four an absolute one"),
        ("store: sqlite:///", "three slashes begin a path"),
        ("store: sqlite:///b.db?mode=ro", "and nothing follows it"),
        ("store: sqlite:////var/", "three slashes begin a path"),
        ("store: 'sqlite:///:memory:'", "three slashes begin a path"),
        ("store: file", "1:8: store: must be memory, sqlite:///path.db or redis://host:port/db, got 'file'"),
        ("store: [memory]", "1:8: store: must be a mapping, got a list"),
        ("store: {timeout: 0}", "1:18: store.timeout: store.timeout_s must be from 0.01 to 60 seconds, got 0"),
        ("store: {timeout: 2m}", "1:18: store.timeout: store.timeout_s must be from 0.01 to 60 seconds, got 120"),
        ("store: {ttl: 5:00}", "1:14: store.ttl: must be a time such as 30s, 5m or 1h30m, got '5:00'; write it with"),
        ("store: {ttl: 500ms}", "1:14: store.ttl: store.ttl_s must be from 1 to 3600 seconds, got 0.5"),
        ("store: {tll: 5s}", "1:9: store.tll: unknown setting; did you mean 'ttl'?"),
        ("store: {on_error: open}", "1:19: store.on_error: must be fail_closed or fail_open or"),
        ("store: {fallback_share: 0}", "1:25: store.fallback_share: store.fallback_share must be above 0 and"),
        ("store: {shard_by: user}", "1:19: store.shard_by: must be org or tenant, got 'user'"),
    ],
)  # fmt: skip
def test_each_mistake_has_a_message_with_its_place(refuse: Refuse, text: str, says: str) -> None:
    (line,) = refuse(text)
    assert says in line


@pytest.mark.parametrize("path", ["a.db", "dir/a b.db", "/var/a%20b.db", "ä.db", "a#1/b?.db"])
def test_a_path_is_taken_as_it_stands(path: str) -> None:
    assert StoreConfig(f"sqlite:///{path}").path == path


@pytest.mark.parametrize("secret", ["pw", "p@w", "p/w", "p:w", "p" * 300])
@pytest.mark.parametrize(
    "text",
    [
        "store: {address}",
        "store: {{url: '{address}'}}",
        "store: '${{A:+{address}}}'",
        "default_budget: {address}",
        "on_unpriced: {address}",
        "budgets: {address}",
        "store: {{'{address}': 1}}",
        "tenants: {{'{address}': {{}}}}",
        "store: !{address} x",
        "store: user:{secret}@host:6379",
    ],
)
def test_a_password_in_an_address_is_never_shown(refuse: Refuse, text: str, secret: str) -> None:
    secret = f"s3cr{secret}et"
    message = "\n".join(refuse(text.format(address=f"redis+x://user:{secret}@host:6379/0", secret=secret)))
    assert "s3cr" not in message
    assert "et@" not in message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"url": "redis+x://:s3cret@h"}, r"store\.url must be memory, .*, got 'redis\+x:\.\.\.'; the"),
        ({"url": None}, "store.url must be memory, sqlite"),
        ({"url": ""}, "store.url must be memory, sqlite"),
        ({"timeout_s": 0}, r"store\.timeout_s must be from 0\.01 to 60 seconds, got 0"),
        ({"timeout_s": 61}, r"store\.timeout_s must be from 0\.01 to 60 seconds, got 61"),
        ({"timeout_s": float("nan")}, r"store\.timeout_s must be a finite number of seconds"),
        ({"ttl_s": True}, r"store\.ttl_s must be a number of seconds"),
        ({"ttl_s": 0.5}, r"store\.ttl_s must be from 1 to 3600 seconds, got 0\.5"),
        ({"on_error": "open"}, r"store\.on_error must be fail_closed or fail_open or local_fallback, got 'open'"),
        ({"fallback_share": 0}, r"store\.fallback_share must be above 0 and at most 1, got 0"),
        ({"ttl_s": "60"}, r"store\.ttl_s must be a number of seconds"),
    ],
)  # fmt: skip
def test_a_store_made_in_code_is_as_strict(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        StoreConfig(**options)  # type: ignore[arg-type]
    assert "s3cret" not in str(refused.value)


def test_an_address_in_code_replaces_the_address_and_nothing_else(tmp_path: Path) -> None:
    said: Any = {"on_error": "fail_open", "ttl_s": 30, "shard_by": "tenant", "lease": 0.01}
    url = f"sqlite:///{tmp_path / 'a.db'}"
    for before, timeout_s in (({}, 5), ({"timeout_s": 0.1}, 0.1)):
        engine = Engine(Config(store=StoreConfig("redis://h", **said, **before)), store=url)
        assert engine.store.said == StoreConfig(url, timeout_s=timeout_s, **said)
        assert engine.store.failure.name == "fail_open"
        engine.close()
