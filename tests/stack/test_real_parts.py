"""The files of the stack read by the programs that read them: compose-go, the collector, Prometheus' own tool."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from prometheus_server import prometheus_binary, shipped_command, until
from tools import collector, compose_reader, found, promtool

import otelbudget
from otelbudget import BudgetExceeded, Config, RunBudget
from otelbudget.config.parts import TelemetryConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "grafana"
# The first run on a machine builds the programs.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def _compose(text: str, directory: Path) -> str:
    """What docker would say to a compose file of *text*."""
    file = directory / "docker-compose.yml"
    file.write_text(text, "utf-8")
    done = subprocess.run([compose_reader(), str(file)], capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout + done.stderr if done.returncode else ""


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("", "", ""),
        ("depends_on", "depend_on", "depend_on"),
        ("healthcheck:", "healthchek:", "healthchek"),
        ("      - redis:/data", "      - rediss:/data", "rediss"),
        ("depends_on: [tempo]", "depends_on: [temp]", "temp"),
    ],
)
def test_docker_reads_the_compose_file_and_finds_what_is_misspelt(
    good: str, bad: str, said: str, tmp_path: Path
) -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    assert good in text
    problem = _compose(text.replace(good, bad, 1) if good else text, tmp_path)
    assert (said in problem) if said else (problem == "")


def _free_ports(number: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


def _collector_file(directory: Path, change: tuple[str, str] = ("", "")) -> tuple[Path, dict[str, int]]:
    """The shipped configuration on free ports of the loopback, and those."""
    names = ("4317", "4318", "8888", "8889", "13133")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    text = (GRAFANA / "collector" / "collector.yaml").read_text("utf-8")
    assert change[0] in text
    text = text.replace(*change) if change[0] else text
    for name, port in ports.items():
        text = text.replace(f"0.0.0.0:{name}", f"127.0.0.1:{port}").replace(f"port: {name}", f"port: {port}")
    file = directory / "collector.yaml"
    file.write_text(text.replace("host: 0.0.0.0", "host: 127.0.0.1"), "utf-8")
    return file, ports


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("", ""),
        ("memory_limiter:", "memory_limit:"),
        ("verbosity", "verbosety"),
        ("exporters: [debug]", "exporters: [log]"),
    ],
)
def test_the_collector_reads_its_file_and_finds_what_is_misspelt(good: str, bad: str, tmp_path: Path) -> None:
    file, _ = _collector_file(tmp_path, (good, bad))
    done = subprocess.run([collector(), "validate", f"--config={file}"], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (not good), done.stderr


@contextmanager
def _collecting(directory: Path) -> Iterator[tuple[dict[str, int], Path]]:
    # Tempo can't be had here: what it would get is shown.
    file, ports = _collector_file(directory, ("exporters: [otlp_grpc/tempo]", "exporters: [debug]"))
    log = directory / "collector.log"
    with log.open("w") as output:
        process = subprocess.Popen([collector(), f"--config={file}"], stdout=output, stderr=subprocess.STDOUT)
        try:
            until(lambda: _read(ports["13133"], "/"), 60, "the collector gets ready")
            yield ports, log
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _read(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def test_spans_log_records_and_metrics_arrive(tmp_path: Path) -> None:
    with _collecting(tmp_path) as (ports, log):
        url = f"http://127.0.0.1:{ports['4318']}/v1"
        logs = LoggerProvider(shutdown_on_exit=False)
        logs.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(f"{url}/logs")))
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{url}/metrics"))
        metrics = MeterProvider([reader], shutdown_on_exit=False)
        config = Config(default_budget=RunBudget(max_steps=0), telemetry=TelemetryConfig(events="both"))
        otelbudget.setup(
            config, exporter=OTLPSpanExporter(f"{url}/traces"), meter_provider=metrics, logger_provider=logs
        )
        with pytest.raises(BudgetExceeded), otelbudget.run(tenant="acme") as run:
            run.check()
        metrics.force_flush()
        otelbudget.shutdown()
        metrics.shutdown()
        logs.shutdown()
        told = until(
            lambda: (text := log.read_text("utf-8")).count("acme") >= 2 and text, 30, "spans and logs are shown"
        )
        assert re.search(r"otelbudget\.run .*otelbudget\.tenant=acme", told)
        assert re.search(r"otelbudget\.reason=limit.* otelbudget\.resource=steps.* otelbudget\.tenant=acme", told), told
        page = until(lambda: "otelbudget_checks_total" in (text := _read(ports["8889"], "/metrics")) and text, 30, "")
        assert re.search(r'otelbudget_checks_total\{.*decision="deny".*resource="steps".*\} 1', page)
        assert "otelcol_" in _read(ports["8888"], "/metrics")


@contextmanager
def _workers(directory: Path, collector_port: int, *options: str) -> Iterator[tuple[int, int]]:
    """The port of a gunicorn of two workers that share a quota and push to the collector, and who answered first."""
    (port,), budgets = _free_ports(1), directory / "budgets.yaml"
    quotas = "quotas: {default: [{cost_usd: 900, per: lifetime}]}"
    budgets.write_text(f"{quotas}\nstore: {{url: sqlite:///{directory}/shared.db, timeout: 5s}}\n", "utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment = inherited | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "stores"), inherited.get("PYTHONPATH", "")]),
        "WORKER_BUDGETS": str(budgets),
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector_port}",
    }
    command = [sys.executable, "-m", "gunicorn", "--workers", "2", *options, "--bind", f"127.0.0.1:{port}"]
    with (directory / "server.log").open("w") as log:
        server = subprocess.Popen([*command, "worker_app:wsgi"], env=environment, stdout=log, stderr=log)
        try:
            yield port, json.loads(until(lambda: _read(port, "/"), 60, "gunicorn answers"))["pid"]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def _costs(page: str) -> list[float]:
    """What each process has spent, by the collector's page."""
    return sorted(float(cost) for cost in re.findall(r"^otelbudget_cost_usd_total\{.*\} (\S+)$", page, re.MULTILINE))


@pytest.mark.parametrize("options", [(), ("--preload",)])
def test_what_each_worker_pushes_is_kept_apart_by_the_collector(options: tuple[str, ...], tmp_path: Path) -> None:
    with (
        _collecting(tmp_path) as (ports, _),
        _workers(tmp_path, ports["4318"], *options) as (port, first),
        ThreadPoolExecutor(8) as clients,
    ):
        spent = Counter([first])  # requests by process, of five cents each
        while len(spent) < 2:
            said = [json.loads(body) for body in clients.map(_read, [port] * 16, ["/"] * 16)]
            assert all(one["spent"] and one["page"] is None for one in said)
            spent.update(one["pid"] for one in said)
        wanted = pytest.approx(sorted(number / 20 for number in spent.values()))
        until(lambda: _costs(_read(ports["8889"], "/metrics")) == wanted, 30, "what both have spent is shown")


def test_prometheus_reads_its_files_and_finds_what_is_misspelt(tmp_path: Path) -> None:
    shutil.copytree(GRAFANA / "prometheus", tmp_path, dirs_exist_ok=True)
    shutil.copy(GRAFANA / "alerts" / "otelbudget.rules.yaml", tmp_path)
    file = tmp_path / "prometheus.yaml"
    check = [promtool(), "check", "config", str(file)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    file.write_text(file.read_text("utf-8").replace("file_sd_configs", "file_sd_config"), "utf-8")
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1


def test_alertmanager_reads_its_file() -> None:
    check = [found("amtool"), "check-config", str(GRAFANA / "alerts" / "alertmanager.yaml")]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("misspelt", [[], ["--web.externl-url=http://localhost"]])
def test_programs_find_options_of_the_compose_file_that_they_do_not_have(misspelt: list[str]) -> None:
    """Those of the demo and of Redis are tried where the boards are."""
    programs = {
        "prometheus": (str(prometheus_binary()), "--version"),
        "alertmanager": (found("prometheus-alertmanager"), "--version"),
        "collector": (collector(), "--help"),
    }
    for service, (program, ends) in programs.items():
        command = [program, *shipped_command(service), *misspelt, ends]
        done = subprocess.run(command, capture_output=True, check=False)
        assert (done.returncode == 0) == (not misspelt), done.stderr
