"""Monitoring: a real Prometheus over the whole stack, while it works and while parts of it are killed.

The tests go by their order: the last one leaves nothing of the stack.
"""

import json
import math
import os
import re
import signal
import urllib.request

import cv2
import numpy as np
import pytest
from commands import dermbatch
from prometheus_client.parser import text_string_to_metric_families

from deploy.grafana.build import FOLDER
from dermbatch.ledger import Ledger
from dermbatch.records.asked import Order
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from orchestrator.planning.intake.candidates import Candidate
from orchestrator.planning.planner import plan
from orchestrator.stack.stack import Stack
from orchestrator.steering.controls import begin
from tests.prometheus_server import expressions, prometheus, rules
from tests.waiting import wait_for

NOT_HERE = {
    # Triton exports these where it has an NVIDIA GPU, by DCGM (server/docs/user_guide/metrics.md, "GPU Metrics").
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
    # Made by Prometheus itself.
    "up",
    "ALERTS",
}
OF_SCRAPING = {"namespace", "job", "instance", "alertname", "alertstate"}
KEYWORDS = {"and", "or", "unless", "bool", "offset"}
WINDOW = 10  # seconds: what all windows of the rules are here


@pytest.fixture(scope="module")
def stack(tmp_path_factory, small_models):
    """All parts, without anybody who starts again what dies."""
    settings = Settings()
    home = tmp_path_factory.mktemp("stack") / "home"
    with Stack(home, settings, live_slots=1, model_repository=small_models) as stack:
        yield stack


@pytest.fixture(scope="module")
def server(stack, tmp_path_factory):
    """Prometheus; it has scraped everything once."""
    ports = stack.ports
    targets = {
        "dermbatch-orchestrator": [ports["orchestrator"]],
        "dermbatch-worker": [ports["worker"], ports["worker-live"]],
        "dermbatch-triton": [ports["triton-metrics"]],
    }
    with prometheus(tmp_path_factory.mktemp("prometheus"), targets) as server:
        server.wait(lambda server: server.healthy() and server.query("sum(dermbatch:work:sum)") == 0)
        yield server


def names_and_labels(expression):
    """The metrics that an expression names, and the labels that it chooses each by."""
    plain = re.sub(r'"[^"]*"', "", expression)
    chosen = re.findall(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}", plain)
    labels = {name: set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside)) for name, inside in chosen}
    plain = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|on|group_left)\s*\([^)]*\)|\boffset\s+\w+", " ", plain)
    for name in re.findall(r"(?<![\w.:])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])", plain):
        if name not in KEYWORDS:
            labels.setdefault(name, set())
    return labels


def exported(stack):
    """Name of every series, or family without any yet, of all parts to the labels that it was seen with."""
    found = {}
    for part in ("orchestrator", "worker", "worker-live", "triton-metrics"):
        with urllib.request.urlopen(f"http://127.0.0.1:{stack.ports[part]}/metrics") as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            total = (
                family.name + "_total" if family.type == "counter" and "nv_" not in family.name else family.name
            )
            for name in (total, *(f"{family.name}_{end}" for end in ("bucket", "sum", "count"))):
                if name == total or family.type == "histogram":
                    found.setdefault(name, set())
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def asked():
    """Everything that rules, scaling and dashboards ask for: where to the expression."""
    found = dict(expressions())
    for path in FOLDER.glob("*.json"):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for n, target in enumerate(panel.get("targets", ())):
                found[f"{path.stem}, {panel['title']}, {n}"] = target["expr"].replace("$gpu_price", "1")
    return found


def test_the_metrics_of_an_expression_are_found():
    text = (
        'sum by (le) (rate(a_bucket{x="b{", le=~"1"}[5m] offset 1w)) / on (x) group_left () c:d > bool 0.5 '
        "or absent(e) unless f * 1e6"
    )
    assert names_and_labels(text) == {"a_bucket": {"x", "le"}, "c:d": set(), "e": set(), "f": set()}


def test_a_batch_gives_sane_figures(stack, server, samples, tmp_path):
    server.wait(lambda server: server.firing() == set())  # a system at rest
    images = tmp_path / "images"
    images.mkdir()
    for sample in samples.iterdir():
        (images / sample.name).symlink_to(sample)
    (images / "broken.jpg").write_bytes(b"no image")
    ended = dermbatch("submit", images, "--home", stack.home, "--batch", "day", "--live")
    assert ended.code == 0, ended.err
    wait_for(lambda: "finished" in dermbatch("status", "day", "--home", stack.home).out, 120, "the batch")
    server.wait(lambda server: server.query('sum(dermbatch_images_total{outcome="done"})') == 8)

    assert server.query('sum(dermbatch_images_total{outcome="failed"})') == 1
    assert server.query('sum(dermbatch_waiting_seconds_count{lane="live"})') == 9
    ours = '{namespace="clinic"}'
    most = f"max_over_time(dermbatch:%s{ours}[5m])"
    assert 1 <= server.query(most % "work:sum") <= 9
    assert 1 / WINDOW <= server.query(most % "finished:rate5m") <= 9
    assert 0.02 <= server.query(most % "failures:ratio_rate15m") <= 1
    assert 0 <= server.query(most % "live_late:ratio_rate1h") < 1e-9
    assert 0 < server.query(most % "time_left_seconds") < 120
    assert 0 <= server.query(most % "triton_queue_seconds") < 30
    assert (server.query(most % "store_errors:ratio_rate5m") or 0) < 0.02  # none where there never was an error
    assert server.query(most % "triton_needed:bool") == 1
    assert server.query(f"dermbatch:triton_servers:count{ours}") == 1
    assert server.query(f"dermbatch:redis_memory:ratio{ours}") is None  # this Redis has no limit
    server.wait(lambda server: server.query(f"dermbatch:work:sum{ours}") == 0)
    for name in rules("record"):
        values = [float(row["value"][1]) for row in server.get("query", query=name)["result"]]
        assert all(value >= 0 or math.isnan(value) for value in values), name
    assert server.healthy()


def test_everything_that_is_asked_for_is_exported(stack, server):
    found, made = exported(stack), set(rules("record"))
    assert len(asked()) > 100
    for where, expression in asked().items():
        for name, labels in names_and_labels(expression).items():
            assert name in found or name in made or name in NOT_HERE, (where, name)
            if found.get(name):
                assert labels - OF_SCRAPING <= found[name], (where, name)
    named = {name for expression in asked().values() for name in names_and_labels(expression)}
    assert named >= NOT_HERE  # no exception that nobody needs


def test_the_right_alerts_fire_when_parts_are_killed(stack, server):
    def kill(name):
        (part,) = (part for part in stack.parts if part.name == name)
        os.kill(part.program_pid, signal.SIGKILL)

    def fires(*wanted):
        server.wait(lambda server: set(wanted) <= server.firing())

    server.wait(lambda server: server.firing() == set())
    kill("worker-live")
    fires(("DermbatchWorkerDown", "dermbatch-worker"))
    assert server.firing() == {("DermbatchWorkerDown", "dermbatch-worker")}

    kill("triton")
    fires(("DermbatchTritonDown", "dermbatch-triton"))
    assert ("DermbatchNoTriton", None) not in server.firing()  # nothing to do, so nobody is missed
    give_work(stack)
    fires(("DermbatchNoTriton", None), ("DermbatchBatchStalled", None))
    assert not {name for name, _ in server.firing()} & {"DermbatchNoLeader", "DermbatchOrchestratorDown"}

    kill("orchestrator")
    fires(("DermbatchOrchestratorDown", "dermbatch-orchestrator"), ("DermbatchNoLeader", None))


def give_work(stack):
    """Two images whose content was never seen."""
    store, settings = ObjectStore(stack.settings.store), stack.settings
    noise = np.random.default_rng(1)
    there = []
    for n in range(2):
        pixels = noise.integers(0, 255, (64, 64, 3), np.uint8)
        body = bytes(cv2.imencode(".png", pixels)[1])
        store.put(f"noise/{n}.png", body, "image/png")
        there.append(Candidate(f"{n}.png", uri=f"s3://{store.bucket}/noise/{n}.png", size=len(body)))
    batch = plan("dark", Order(models=settings.models), there, store)
    begin(store, Ledger(settings.redis, settings.ledger), batch)
