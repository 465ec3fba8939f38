"""The files of the local stack as data: they parse, versions are pinned, what is mounted and referred to exists."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "grafana"
#: Known to work together.
IMAGES = {
    "demo": "otelbudget-demo:local",
    "alertmanager": "prom/alertmanager:v0.34.1",
    "collector": "otel/opentelemetry-collector-contrib:0.155.0",
    "prometheus": "prom/prometheus:v3.14.0",
    "tempo": "grafana/tempo:3.0.3",
    "grafana": "grafana/grafana:13.2.0",
    "redis": "redis:8.8-alpine",
}
#: What Grafana's configuration knows in the sections that are in use (its conf/defaults.ini): it ignores anything else.
GRAFANA_SETTINGS = {
    "ANALYTICS": {"REPORTING_ENABLED", "CHECK_FOR_UPDATES", "CHECK_FOR_PLUGIN_UPDATES", "FEEDBACK_LINKS_ENABLED"},
    "AUTH_ANONYMOUS": {"ENABLED", "ORG_NAME", "ORG_ROLE", "HIDE_VERSION"},
    "DASHBOARDS": {"DEFAULT_HOME_DASHBOARD_PATH", "MIN_REFRESH_INTERVAL", "VERSIONS_TO_KEEP"},
    "SECURITY": {"ADMIN_USER", "ADMIN_PASSWORD", "ADMIN_EMAIL", "SECRET_KEY"},
    "USERS": {"DEFAULT_THEME", "HOME_PAGE"},
}


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


@pytest.fixture
def compose() -> Any:
    return _load(ROOT / "docker-compose.yml")


def test_images_are_pinned(compose: Any) -> None:
    assert {name: service["image"] for name, service in compose["services"].items()} == IMAGES
    dockerfile = compose["services"]["demo"]["build"]["dockerfile_inline"]
    assert re.match(r"FROM python:\d\.\d+-slim-\w+\n", dockerfile)


def test_the_demo_is_built_from_files_that_are_there(compose: Any) -> None:
    dockerfile = compose["services"]["demo"]["build"]["dockerfile_inline"]
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.M) for name in line.split()]
    assert {"pyproject.toml", "otelbudget", "grafana"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    extras = re.search(r"\.\[(.+)\]", dockerfile)[1].split(",")  # type: ignore[index]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(extras) <= set(declared)


def test_no_service_fills_the_disk_or_the_memory(compose: Any) -> None:
    for service in compose["services"].values():
        assert service["mem_limit"]
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}


def test_every_service_whose_image_can_says_whether_it_is_well(compose: Any) -> None:
    asked = {name for name, service in compose["services"].items() if "healthcheck" in service}
    assert asked == set(compose["services"]) - {"collector", "tempo"}


def test_nobody_can_log_in_with_a_password_that_everybody_knows(compose: Any) -> None:
    grafana = compose["services"]["grafana"]
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "${GRAFANA_ADMIN_PASSWORD:-}"
    assert grafana["environment"]["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    script = (
        grafana["entrypoint"][-1].replace("$$", "$").replace("exec /run.sh", 'printf %s "$GF_SECURITY_ADMIN_PASSWORD"')
    )
    for given in ("", "mine"):
        environment = {"PATH": os.environ["PATH"], "GF_SECURITY_ADMIN_PASSWORD": given}
        said = {subprocess.check_output(["sh", "-c", script], env=environment, text=True) for _ in range(2)}
        assert said == {"mine"} if given else len(said) == 2
        assert all(len(password) >= 24 for password in said if not given)


def test_grafana_knows_the_settings_that_it_is_given(compose: Any) -> None:
    known = {f"GF_{section}_{name}" for section, names in GRAFANA_SETTINGS.items() for name in names}
    assert set(compose["services"]["grafana"]["environment"]) <= known


def test_tempo_is_given_options_that_were_tried(compose: Any) -> None:
    """It can't be had here."""
    assert compose["services"]["tempo"]["command"] == ["-target=all", "-config.file=/etc/tempo/tempo.yaml"]


def test_what_is_mounted_exists_and_named_volumes_are_declared(compose: Any) -> None:
    for service in compose["services"].values():
        for mount in service.get("volumes", []):
            source, *_ = mount.split(":")
            if source.startswith("."):
                assert (ROOT / source).exists(), source
                assert mount.endswith(":ro")
            else:
                assert source in compose["volumes"]


def test_nothing_is_published_beyond_this_machine(compose: Any) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\$\{\w+_PORT:-\d+\}:\d+", port) for port in ports)


def test_what_quotas_have_counted_outlives_a_restart_and_a_full_memory(compose: Any) -> None:
    command = compose["services"]["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_configuration_files_are_where_the_commands_look_for_them(compose: Any) -> None:
    for service in compose["services"].values():
        targets = [mount.split(":")[1] for mount in service.get("volumes", [])]
        for argument in service.get("command", []):
            found = re.search(r"config(?:\.file)?=(\S+)", argument)
            assert found is None or found[1] in targets


def test_prometheus_scrapes_the_demo_and_drops_what_would_come_twice(compose: Any) -> None:
    config = _load(GRAFANA / "prometheus" / "prometheus.yaml")
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    [found] = jobs["otelbudget"]["file_sd_configs"]
    [targets] = found["files"]
    [file] = (GRAFANA / "prometheus").glob(targets)
    assert _load(file) == [{"targets": ["demo:9464"]}]
    assert "created-timestamp-zero-ingestion" in str(compose["services"]["prometheus"]["command"])
    [rule] = jobs["collector"]["metric_relabel_configs"]
    assert rule == {"source_labels": ["__name__"], "regex": "otelbudget_.*", "action": "drop"}


def test_what_prometheus_reads_is_mounted_beside_its_configuration(compose: Any) -> None:
    config = _load(GRAFANA / "prometheus" / "prometheus.yaml")
    targets = [mount.split(":")[1] for mount in compose["services"]["prometheus"]["volumes"]]
    assert {f"/etc/prometheus/{file}" for file in config["rule_files"]} <= set(targets)
    assert "/etc/prometheus/targets" in targets
    addresses = [t for one in config["alerting"]["alertmanagers"] for s in one["static_configs"] for t in s["targets"]]
    addresses += [t for job in config["scrape_configs"] for s in job.get("static_configs", []) for t in s["targets"]]
    assert {address.split(":")[0] for address in addresses} <= set(compose["services"])


def test_the_collector_connects_what_compose_starts(compose: Any) -> None:
    config = _load(GRAFANA / "collector" / "collector.yaml")
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind])
        assert set(pipeline["processors"]) <= set(config["processors"])
    assert config["exporters"]["otlp_grpc/tempo"]["endpoint"].split(":")[0] in compose["services"]
    prometheus = config["exporters"]["prometheus"]
    assert prometheus["enable_open_metrics"] is True
    assert prometheus["metric_expiration"] == "1m"
    assert set(config["service"]["pipelines"]) == {"traces", "logs", "metrics"}


def test_tempo_receives_where_the_collector_sends() -> None:
    sent_to = _load(GRAFANA / "collector" / "collector.yaml")["exporters"]["otlp_grpc/tempo"]["endpoint"]
    receiver = _load(GRAFANA / "tempo" / "tempo.yaml")["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]
    assert sent_to.split(":")[1] == receiver["endpoint"].split(":")[1]


def test_data_sources_refer_to_each_other_and_to_services(compose: Any) -> None:
    sources = {s["uid"]: s for s in _load(GRAFANA / "provisioning" / "datasources" / "datasources.yaml")["datasources"]}
    assert set(sources) == {"prometheus", "tempo"}
    for source in sources.values():
        assert re.match(r"http://(\w+):", source["url"])[1] in compose["services"]  # type: ignore[index]
    [exemplar] = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert exemplar["name"] == "trace_id"
    uid, variable = re.match(r"/d/([\w-]+)\?var-(\w+)=", exemplar["url"]).groups()  # type: ignore[union-attr]
    board = json.loads((GRAFANA / "dashboards" / f"{uid.removeprefix('otelbudget-')}.json").read_text("utf-8"))
    assert variable in {one["name"] for one in board["templating"]["list"]}
    assert sources["tempo"]["jsonData"]["tracesToMetrics"]["datasourceUid"] in sources


def test_dollars_in_provisioning_files_are_doubled() -> None:
    for path in (GRAFANA / "provisioning").rglob("*.yaml"):
        text = "\n".join(line for line in path.read_text("utf-8").splitlines() if not line.startswith("#"))
        assert not re.search(r"(?<!\$)\$(?!\$)", text), path.name


def test_the_boards_are_mounted_where_the_provider_and_the_home_page_look(compose: Any) -> None:
    [provider] = _load(GRAFANA / "provisioning" / "dashboards" / "dashboards.yaml")["providers"]
    grafana = compose["services"]["grafana"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (GRAFANA / "dashboards" / Path(home).name).exists()
    assert home.startswith(provider["options"]["path"])


def test_the_rate_interval_follows_the_scrape_interval() -> None:
    scraped_every = _load(GRAFANA / "prometheus" / "prometheus.yaml")["global"]["scrape_interval"]
    sources = _load(GRAFANA / "provisioning" / "datasources" / "datasources.yaml")["datasources"]
    assert sources[0]["jsonData"]["timeInterval"] == scraped_every
