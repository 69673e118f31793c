"""A real Prometheus on the loopback address, with the rules that ship; windows shortened, so that tests end."""

import json
import os
import re
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import yaml

from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import Part, http_ok
from tests.needed import program
from tests.waiting import wait_for

DEPLOYED = Path(__file__).parents[1] / "deploy" / "prometheus"
RULES = yaml.safe_load((DEPLOYED / "rules.yaml").read_text(encoding="utf-8"))
SCALING = yaml.safe_load((DEPLOYED / "scaling.yaml").read_text(encoding="utf-8"))
NAMESPACE = "clinic"


def rules(kind):
    """All rules that ship of a kind, ``alert`` or ``record``, by name."""
    return {rule[kind]: rule for group in RULES["groups"] for rule in group["rules"] if kind in rule}


def expressions():
    """Name of an alert, a recording rule or a trigger of scaling, to its expression."""
    found = {name: rule["expr"] for kind in ("record", "alert") for name, rule in rules(kind).items()}
    for target, how in SCALING["targets"].items():
        for trigger in how["triggers"]:
            found[f"{target}-{trigger['name']}"] = trigger["query"].replace("$namespace", NAMESPACE)
    return found


def shortened(text, window="10s"):
    """The rules with all windows of this length, no waiting before an alert, and an evaluation twice a second."""
    text = re.sub(r"\[\d+[mhd]\]", f"[{window}]", text)
    text = re.sub(r"^( +)for: \w+$", r"\1for: 0s", text, flags=re.MULTILINE)
    return re.sub(r"^( +)interval: \w+$", r"\1interval: 500ms", text, flags=re.MULTILINE)


class Prometheus:
    """What is asked of a running one."""

    def __init__(self, port):
        self.port = port

    def get(self, path, **asked):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url) as answer:
            return json.load(answer)["data"]

    def query(self, expression):
        """The answer, as KEDA reads it: the one number, or none; more than one are an error there, too."""
        found = self.get("query", query=expression, time=time.time())["result"]
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def firing(self):
        """(alert, job) of all alerts that fire."""
        labels = [alert["labels"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"]
        return {(alert["alertname"], alert.get("job")) for alert in labels}

    def healthy(self):
        """Whether every target was scraped, and every rule evaluated, without an error."""
        targets = self.get("targets")["activeTargets"]
        evaluated = [rule for group in self.get("rules")["groups"] for rule in group["rules"]]
        return all(t["health"] == "up" for t in targets) and all(rule["health"] == "ok" for rule in evaluated)

    def wait(self, condition, seconds=30.0):
        """Look until it is true of this server; it says what was not where it never is."""
        wait_for(lambda: condition(self), seconds, lambda: (self.firing(), self.get("targets")["activeTargets"]))


@contextmanager
def prometheus(folder, targets):
    """A running Prometheus.

    Args:
        folder: For its data, configuration and log.
        targets: Job to port on the loopback address, or to several.
    """
    server = program("prometheus", "prometheus")
    (folder / "rules.yaml").write_text(shortened((DEPLOYED / "rules.yaml").read_text(encoding="utf-8")))
    config = yaml.safe_load((DEPLOYED / "prometheus.yaml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    jobs = {job["job_name"] for job in config["scrape_configs"]}
    assert set(targets) <= jobs, jobs
    config["scrape_configs"] = [
        {
            "job_name": job,
            "static_configs": [
                {"targets": [f"127.0.0.1:{port}" for port in ports], "labels": {"namespace": NAMESPACE}}
            ],
        }
        for job, ports in targets.items()
    ]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    part = Part(
        name="prometheus",
        argv=[
            server,
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        env=base_environment(os.environ),
        log=folder / "prometheus.log",
        probe=lambda: http_ok(port, "/-/ready"),
    )
    part.start()
    try:
        part.wait()
        yield Prometheus(port)
    finally:
        part.stop()


def promtool(*args):
    """Run promtool; its exit status and output."""
    argv = [program("promtool", "prometheus"), *map(str, args)]
    ended = subprocess.run(argv, check=False, capture_output=True, text=True)
    return ended.returncode, ended.stdout + ended.stderr
