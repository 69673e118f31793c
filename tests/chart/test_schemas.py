"""What the chart renders is what Kubernetes, KEDA and the Prometheus operator take."""

from functools import cache

import jsonschema
import kubernetes_validate
import pytest
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as operator
from rendering import CHART, SITUATIONS, helm, objects, of_kind, values_of

VERSIONS = ("1.29", "1.33", "1.37")
CUSTOM = {
    "ScaledObject": keda.ScaledObject,
    "ServiceMonitor": operator.ServiceMonitor,
    "PrometheusRule": operator.PrometheusRule,
}


@cache
def schema_of(kind):
    """The schema of a custom resource; as strict as the API server is with fields that there are none of."""
    schema = CUSTOM[kind].model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        if "properties" in part:
            part.setdefault("additionalProperties", False)
    return jsonschema.Draft202012Validator(schema)


def problems(item, version):
    if item["kind"] in CUSTOM:
        return [error.message for error in schema_of(item["kind"]).iter_errors(item)]
    try:
        kubernetes_validate.validate(item, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_chart_passes_helms_own_eyes(situation):
    code, output, _ = helm("lint", "--strict", CHART, "--values", values_of(situation))
    assert code == 0, output


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_object_is_valid(situation, version):
    found = objects(situation)
    wrong = {(item["kind"], item["metadata"]["name"]): problems(item, version) for item in found}
    assert {what: faults for what, faults in wrong.items() if faults} == {}


def test_all_kinds_of_custom_resources_are_among_them():
    kinds = {item["kind"] for situation in SITUATIONS for item in objects(situation)}
    assert set(CUSTOM) <= kinds
    assert {"CronJob", "HorizontalPodAutoscaler", "Ingress", "Job", "NetworkPolicy"} <= kinds


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Deployment", lambda item: item["spec"].update(replica=3)),
        ("NetworkPolicy", lambda item: item["spec"].update(policyTypes="Ingress")),
        ("ScaledObject", lambda item: item["spec"].update(pollInterval=3)),
        ("ScaledObject", lambda item: item["spec"]["triggers"][0].pop("type")),
        ("ScaledObject", lambda item: item["spec"]["triggers"][0]["metadata"].update(threshold=1)),
        ("ServiceMonitor", lambda item: item["spec"].pop("selector")),
        ("PrometheusRule", lambda item: item["spec"]["groups"][0]["rules"][0].update(expression="1")),
    ],
)
def test_what_is_wrong_would_be_noticed(kind, change):
    item = next(iter(of_kind(template_of(kind), kind).values()))
    assert problems(item, VERSIONS[-1]) == []
    change(item)
    assert problems(item, VERSIONS[-1]) != []


def template_of(kind):
    """Objects that may be changed."""
    from rendering import rendered

    assert kind in {item["kind"] for item in objects("many-gpu-nodes")}
    return rendered("many-gpu-nodes")
