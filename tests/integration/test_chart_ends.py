"""What the chart starts ends at SIGTERM, unforced, in the time that its pod gets."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from dermbatch.settings import Settings
from orchestrator.stack.environment import base_environment, settings_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import http_ok
from tests.chart.rendering import NAME, objects, of_kind, pods
from tests.waiting import patience, wait_for

PORTS = {
    "orchestrator": ("laptop", "DERMBATCH_ORCHESTRATOR__METRICS_PORT"),
    "worker-both": ("laptop", "DERMBATCH_WORKER__METRICS_PORT"),
    "watch": ("laptop", "DERMBATCH_WATCH__METRICS_PORT"),
    "desk": ("many-gpu-nodes", "DERMBATCH_DESK__METRICS_PORT"),
}
"""By end of a pod's name, a situation that has it, and the setting of the port that says whether it runs."""


def command(words, rules):
    """Words of a container, with this environment's programs in place of those of the image."""
    program = {"python": [sys.executable, "-P"], "dermbatch": [Path(sys.executable).with_name("dermbatch")]}
    return [*program[words[0]], *(str(rules) if word.startswith("/etc/") else word for word in words[1:])]


@pytest.mark.skipif(not Path(sys.executable).with_name("helm").is_file(), reason="needs Helm (make chart-check)")
def test_programs_end_within_the_grace_of_their_pods(empty_redis, empty_store, s3_client, tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text(of_kind(objects("laptop"), "ConfigMap")[f"{NAME}-watch"]["data"]["rules.yaml"])
    s3_client.create_bucket(Bucket="drop")
    settings = Settings(redis=empty_redis, store=empty_store)
    started = {}
    try:
        for name, (situation, variable) in PORTS.items():
            spec = pods(objects(situation))[f"{NAME}-{name}"]["spec"]
            (container,) = spec["containers"]
            port, other = free_ports(2)
            env = base_environment(os.environ) | settings_environment(settings)
            env |= {
                variable: str(port),
                **{f"DERMBATCH_{part}__LISTEN_PORT": str(other) for part in ("WATCH", "DESK")},
            }
            with (tmp_path / name).open("wb") as log:
                process = subprocess.Popen(
                    command(container["args"], rules), env=env, cwd=tmp_path, stdout=log, stderr=log
                )
            started[name] = process, port, spec["terminationGracePeriodSeconds"]
        for name, (process, port, _) in started.items():
            ready = partial(lambda of, at: of.poll() is not None or http_ok(at, "/metrics"), process, port)
            wait_for(ready, 30, (tmp_path / name).read_text)
            assert process.poll() is None, (tmp_path / name).read_text()
        for process, _, _ in started.values():
            process.send_signal(signal.SIGTERM)
        for name, (process, _, grace) in started.items():
            assert process.wait(patience(grace)) in (0, -signal.SIGTERM, 128 + signal.SIGTERM), (
                tmp_path / name
            ).read_text()
    finally:
        for process, _, _ in started.values():
            process.kill()
            process.wait()
