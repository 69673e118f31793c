"""Scaling in the chart: real targets, real metrics, and the queries that are tested elsewhere."""

import pytest
import yaml
from rendering import CHART, NAME, NAMESPACE, SITUATIONS, objects, of_kind, rendered

from tests.prometheus_server import DEPLOYED, RULES, SCALING

DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
RULED = {"autoscaling.mode": "keda", "monitoring.rules.enabled": True}


def scaled(**changed):
    return {
        name.removeprefix(f"{NAME}-"): item["spec"]
        for name, item in of_kind(rendered(None, **RULED, **changed), "ScaledObject").items()
    }


def queries(target):
    return {t["name"]: t["query"].replace("$namespace", NAMESPACE) for t in SCALING["targets"][target]["triggers"]}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_scales_names_a_deployment_that_leaves_its_number_open(situation):
    found = objects(situation)
    deployments = of_kind(found, "Deployment")
    targets = [
        item["spec"]["scaleTargetRef"]["name"]
        for item in of_kind(found, "ScaledObject", "HorizontalPodAutoscaler").values()
    ]
    assert len(set(targets)) == len(targets)
    for name, item in deployments.items():
        assert ("replicas" in item["spec"]) == (name not in targets)
    assert set(targets) <= set(deployments)


def test_each_situation_scales_as_it_says():
    ways = {
        situation: {
            kind for kind in ("ScaledObject", "HorizontalPodAutoscaler") if of_kind(objects(situation), kind)
        }
        for situation in SITUATIONS
    }
    assert ways["many-gpu-nodes"] == ways["external"] == {"ScaledObject"}
    assert ways["one-gpu-node"] == {"HorizontalPodAutoscaler"}
    assert ways["laptop"] == set()


@pytest.mark.parametrize(
    ("target", "ours"), [("worker-live", "worker-live"), ("worker-bulk", "worker-both"), ("triton", "triton")]
)
def test_the_chart_asks_what_the_rules_answer_with_the_thresholds_that_were_tried(target, ours):
    wanted, spec = SCALING["targets"][target], scaled()[ours]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (wanted["min_replicas"], wanted["max_replicas"])
    assert spec["cooldownPeriod"] == wanted["cooldown"]
    assert spec["pollingInterval"] == SCALING["polling"]
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] == wanted["scale_down_after"]
    given = {
        t["name"]: (
            t["metadata"]["query"],
            t["metricType"],
            float(t["metadata"]["threshold"]),
            t["metadata"]["activationThreshold"],
        )
        for t in spec["triggers"]
    }
    assert given == {
        t["name"]: (queries(target)[t["name"]], t["metric_type"], t["threshold"], str(t["activation"]))
        for t in wanted["triggers"]
    }
    assert {t["metadata"]["ignoreNullValues"] for t in spec["triggers"]} == {"false"}


def test_a_pool_of_the_bulk_lane_asks_for_its_work_alone():
    (trigger,) = scaled(**{"workers.pools.bulk.enabled": True})["worker-bulk"]["triggers"]
    assert (
        trigger["metadata"]["query"]
        == f'sum(dermbatch:work_ready_in_flight:sum{{namespace="{NAMESPACE}", lane="bulk"}})'
    )


def test_slices_of_gpus_are_not_asked_for_their_use():
    names = {t["name"] for t in scaled(**{"triton.gpuPercent": 0})["triton"]["triggers"]}
    assert names == {"needed", "queue"} == set(queries("triton")) - {"gpu"}


def test_the_rules_of_the_chart_are_those_that_are_tested():
    (rule,) = of_kind(objects("many-gpu-nodes"), "PrometheusRule").values()
    assert rule["spec"] == RULES
    assert (CHART / "files" / "rules.yaml").resolve() == DEPLOYED / "rules.yaml"


def test_targets_are_called_as_the_rules_know_them():
    import re

    found = objects("many-gpu-nodes")
    services = of_kind(found, "Service").values()
    for name, monitor in of_kind(found, "ServiceMonitor").items():
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = [s for s in services if wanted <= s["metadata"]["labels"].items()]
        job = service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
        assert re.fullmatch(rf".*dermbatch.*{name.rpartition('-')[2]}.*", job)
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports
    assert len(of_kind(found, "ServiceMonitor")) == 5


def test_a_plain_hpa_never_goes_to_zero():
    found = of_kind(rendered("laptop", **{"autoscaling.mode": "hpa"}), "HorizontalPodAutoscaler")
    assert {name.removeprefix(f"{NAME}-") for name in found} == {"worker-both", "triton"}
    assert {item["spec"]["minReplicas"] for item in found.values()} == {1}


def test_a_gpus_processors_are_not_what_an_hpa_goes_by():
    assert f"{NAME}-triton" not in of_kind(objects("one-gpu-node"), "HorizontalPodAutoscaler")
    assert (
        of_kind(objects("one-gpu-node"), "Deployment")[f"{NAME}-triton"]["spec"]["replicas"]
        == DEFAULTS["triton"]["replicas"]
    )


def test_dashboards_are_those_that_are_reviewed():
    found = of_kind(objects("many-gpu-nodes"), "ConfigMap").values()
    shown = [item for item in found if item["metadata"]["labels"].get("grafana_dashboard") == "1"]
    given = {name: text for item in shown for name, text in item["data"].items()}
    kept = {f"dermbatch-{p.name}": p.read_text() for p in (DEPLOYED.parent / "grafana/dashboards").glob("*.json")}
    assert kept
    assert {name: text.strip() for name, text in given.items()} == {n: text.strip() for n, text in kept.items()}
