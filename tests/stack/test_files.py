"""The files of the local stack as data: they parse, versions are pinned, what is mounted and referred to exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "grafana"
#: Known to work together.
IMAGES = {
    "collector": "otel/opentelemetry-collector-contrib:0.155.0",
    "prometheus": "prom/prometheus:v3.14.0",
    "tempo": "grafana/tempo:3.0.3",
    "grafana": "grafana/grafana:13.2.0",
    "redis": "redis:8.8-alpine",
}


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


@pytest.fixture
def compose() -> Any:
    return _load(ROOT / "docker-compose.yml")


def test_images_are_pinned(compose: Any) -> None:
    assert {name: service["image"] for name, service in compose["services"].items()} == IMAGES


def test_what_is_mounted_exists_and_named_volumes_are_declared(compose: Any) -> None:
    for service in compose["services"].values():
        for mount in service["volumes"]:
            source, *_ = mount.split(":")
            if source.startswith("."):
                assert (ROOT / source).exists(), source
                assert mount.endswith(":ro")
            else:
                assert source in compose["volumes"]


def test_nothing_is_published_beyond_this_machine(compose: Any) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_quotas_have_counted_outlives_a_restart_and_a_full_memory(compose: Any) -> None:
    command = compose["services"]["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_configuration_files_are_where_the_commands_look_for_them(compose: Any) -> None:
    for service in compose["services"].values():
        targets = [mount.split(":")[1] for mount in service["volumes"]]
        for argument in service.get("command", []):
            found = re.search(r"config(?:\.file)?=(\S+)", argument)
            assert found is None or found[1] in targets


def test_prometheus_scrapes_the_host_and_drops_what_would_come_twice() -> None:
    jobs = {job["job_name"]: job for job in _load(GRAFANA / "prometheus" / "prometheus.yaml")["scrape_configs"]}
    [direct] = jobs["otelbudget"]["static_configs"]
    assert "host.docker.internal:9464" in direct["targets"]
    [rule] = jobs["collector"]["metric_relabel_configs"]
    assert rule == {"source_labels": ["__name__"], "regex": "otelbudget_.*", "action": "drop"}


def test_the_collector_connects_what_compose_starts(compose: Any) -> None:
    config = _load(GRAFANA / "collector" / "collector.yaml")
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "exporters"):
            assert set(pipeline[kind]) <= {*config[kind], *config["connectors"]}
        assert set(pipeline["processors"]) <= set(config["processors"])
    assert config["exporters"]["otlp_grpc/tempo"]["endpoint"].split(":")[0] in compose["services"]
    prometheus = config["exporters"]["prometheus"]
    assert prometheus["enable_open_metrics"] is True
    assert prometheus["metric_expiration"] == "1m"


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
    assert exemplar["datasourceUid"] in sources
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
