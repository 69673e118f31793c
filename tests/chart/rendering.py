"""The chart, rendered by the real Helm for the situations of its ``ci`` folder."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "dermbatch"
SITUATIONS = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
NAMESPACE, RELEASE = "clinic", "derm"
NAME = f"{RELEASE}-dermbatch"


def helm(*args):
    """Run Helm; its exit status and both outputs."""
    program = Path(sys.executable).with_name("helm")
    assert program.is_file(), "Helm is not installed: make chart-check"
    ended = subprocess.run([program, *map(str, args)], check=False, capture_output=True, text=True)
    return ended.returncode, ended.stdout, ended.stderr


def values_of(situation):
    return CHART / "ci" / f"{situation}-values.yaml"


def template(situation, **changed):
    """Helm's answer with some values changed: ``{"redis.builtin": False}``."""
    sets = [part for name, value in changed.items() for part in ("--set-json", f"{name}={json.dumps(value)}")]
    files = () if situation is None else ("--values", values_of(situation))
    return helm("template", RELEASE, CHART, "--namespace", NAMESPACE, *files, *sets)


def refusal(situation=None, **changed):
    """What Helm says where it refuses values."""
    code, _, stderr = template(situation, **changed)
    assert code != 0
    return stderr


def rendered(situation, **changed):
    """All objects with some values changed."""
    code, text, stderr = template(situation, **changed)
    assert code == 0, stderr
    return [document for document in yaml.safe_load_all(text) if document]


@cache
def objects(situation):
    """All objects of a situation."""
    return rendered(situation)


def of_kind(found, *kinds):
    return {item["metadata"]["name"]: item for item in found if item["kind"] in kinds}


def pods(found):
    """Name of what makes pods, to the template of its pods."""
    made = {}
    for name, item in of_kind(found, "Deployment", "StatefulSet", "Job").items():
        made[name] = item["spec"]["template"]
    for name, item in of_kind(found, "CronJob").items():
        made[name] = item["spec"]["jobTemplate"]["spec"]["template"]
    return made


def containers(pod):
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def selects(selector, pod):
    """Whether a selector's ``matchLabels`` are all on a pod."""
    return selector.items() <= pod["metadata"]["labels"].items()
