"""What the situations ask for, against the nodes that they are for and what was measured."""

import math
import re

import pytest
from rendering import NAME, SITUATIONS, containers, objects, of_kind, pods, values_of

UNITS = {"m": 0.001, "": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
LINE = re.compile(r"# Nodes: (\d+) with (.+); others ask for (.+) of each.*")

WORKER_BASE, WORKER_IMAGE = 128 * 2**20, 1600 * 2**20
"""Bytes of a worker without an image, and of one of 120 megapixels at most: docs/kubernetes.md, "Sizes"."""


def number(quantity):
    """What a quantity of Kubernetes comes to."""
    value, unit = re.fullmatch(r"([\d.]+)([A-Za-z]*)", str(quantity)).groups()
    return float(value) * UNITS[unit]


def listed(text):
    """``cpu 2, memory 6Gi`` as numbers."""
    return {name: number(quantity) for name, quantity in (part.split() for part in text.split(", "))}


def nodes(situation):
    """Groups of equal nodes, as the situation's file states them: how many, and what pods may ask for of each."""
    groups = []
    for line in values_of(situation).read_text().splitlines():
        if found := LINE.fullmatch(line):
            has, others = listed(found[2]), listed(found[3])
            groups.append((int(found[1]), {name: amount - others.get(name, 0) for name, amount in has.items()}))
    return groups


def asked(pod):
    """What a pod asks for: its containers together, or the greediest of those that run before them."""
    by_container = [
        {name: number(quantity) for name, quantity in one["resources"]["requests"].items()}
        for one in pod["spec"]["containers"]
    ]
    before = [
        {name: number(quantity) for name, quantity in one["resources"]["requests"].items()}
        for one in pod["spec"].get("initContainers", [])
    ]
    names = {name for one in by_container for name in one}
    return {
        name: max(sum(one.get(name, 0) for one in by_container), *(one.get(name, 0) for one in before), 0)
        for name in names
    }


def most(found, name):
    """How many pods there are at most: scaled to the end, and while new ones take the place of old ones."""
    (item,) = (
        item
        for item in found
        if item["metadata"]["name"] == name and item["kind"] in ("Deployment", "StatefulSet", "Job", "CronJob")
    )
    replicas = item["spec"].get("replicas", 1)
    for scaler in of_kind(found, "ScaledObject", "HorizontalPodAutoscaler").values():
        if scaler["spec"]["scaleTargetRef"]["name"] == name:
            replicas = scaler["spec"].get("maxReplicaCount") or scaler["spec"]["maxReplicas"]
    if item["kind"] != "Deployment":
        return replicas
    surge = item["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxSurge", "25%")
    return replicas + (surge if isinstance(surge, int) else math.ceil(replicas * int(surge.rstrip("%")) / 100))


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_a_situation_asks_for_fits_its_nodes(situation):
    """Else a pod stays Pending, at the first installation or in the middle of an upgrade."""
    groups, found = nodes(situation), objects(situation)
    assert groups, "the file states no nodes"
    total = {}
    hooks = of_kind(found, "Pod")
    for name, pod in (pods(found) | hooks).items():
        wanted = asked(pod)
        assert any(all(amount <= has.get(what, 0) for what, amount in wanted.items()) for _, has in groups), (
            name,
            wanted,
        )
        for what, amount in wanted.items():
            total[what] = total.get(what, 0) + amount * (1 if name in hooks else most(found, name))
    for what, amount in total.items():
        assert amount <= sum(count * has.get(what, 0) for count, has in groups), (what, amount)


def test_the_laptop_is_not_asked_for_more_than_its_two_processors():
    """2.05 processors were asked for once, and Redis waited for ever."""
    ((count, has),) = nodes("laptop")
    assert (count, has["cpu"]) == (1, pytest.approx(1.05))
    assert sum(asked(pod)["cpu"] for pod in pods(objects("laptop")).values()) <= 0.75


@pytest.mark.parametrize("situation", SITUATIONS)
def test_limits_of_workers_are_for_the_largest_images(situation):
    for name, pod in pods(objects(situation)).items():
        if name.startswith(f"{NAME}-worker"):
            (worker,) = pod["spec"]["containers"]
            (at_a_time,) = (
                int(one["value"]) for one in worker["env"] if one["name"] == "DERMBATCH_WORKER__CONCURRENCY"
            )
            limit = number(worker["resources"]["limits"]["memory"])
            assert limit >= WORKER_BASE + at_a_time * WORKER_IMAGE, name


@pytest.mark.parametrize("situation", SITUATIONS)
def test_nothing_asks_for_more_than_its_limit(situation):
    for name, pod in pods(objects(situation)).items():
        for container in containers(pod):
            resources = container["resources"]
            assert number(resources["requests"]["memory"]) <= number(resources["limits"]["memory"]), name
