"""What `helm test` runs, and what the notes after an installation say to type."""

import re
import shlex

import pytest
from rendering import (
    CHART,
    NAME,
    NAMESPACE,
    RELEASE,
    SITUATIONS,
    helm,
    objects,
    of_kind,
    rendered,
    selects,
    values_of,
)

from orchestrator.cli.program import program

DERMBATCH = program()


def hook(situation, **changed):
    found = rendered(situation, **changed) if changed else objects(situation)
    return of_kind(found, "Pod")[f"{NAME}-test"]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_phantoms_are_drawn_submitted_followed_and_verified_one_after_the_other(situation):
    pod = hook(situation)
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    steps = [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]
    assert [step["args"][:2] for step in steps] == [
        ["dermbatch", name] for name in ("samples", "submit", "status", "verify")
    ]
    for step in steps:
        _, command, *arguments = step["args"]
        DERMBATCH.commands[command].make_context(command, list(arguments))
        assert {"name": "tmp", "mountPath": "/tmp"} in step["volumeMounts"]
        # New images under a new name each time, so that nothing is found done.
        assert any("$(POD_UID)" in word for word in arguments)
        (uid,) = (one for one in step["env"] if one["name"] == "POD_UID")
        assert uid["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.uid"}}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_its_pod_is_restricted_and_let_through(situation):
    found, pod = objects(situation), hook(situation)
    spec = pod["spec"]
    assert spec["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    for container in [*spec["initContainers"], *spec["containers"]]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    policies = of_kind(found, "NetworkPolicy").values()
    (policy,) = (item for item in policies if selects(item["spec"]["podSelector"]["matchLabels"], pod))
    assert policy["metadata"]["name"] == f"{NAME}-submit"
    accounts = {item["metadata"]["name"] for item in found if item["kind"] == "ServiceAccount"}
    assert spec["serviceAccountName"] in accounts | {"default"}


def test_it_can_be_left_out():
    assert of_kind(rendered("external", **{"test.enabled": False}), "Pod") == {}


def notes(situation, *options):
    code, output, error = helm(
        "install",
        RELEASE,
        CHART,
        "--namespace",
        NAMESPACE,
        "--dry-run=client",
        "--values",
        values_of(situation),
        *options,
    )
    assert code == 0, error
    return output.rpartition("\nNOTES:\n")[2]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_notes_name_what_there_is(situation):
    text = notes(situation)
    assert f"helm test {RELEASE} --namespace {NAMESPACE}" in text
    found = objects(situation)
    there = {f"{kind.lower()}/{name}" for kind in ("Deployment", "Service") for name in of_kind(found, kind)}
    named = set(re.findall(r"\b(?:deployment|service)/[\w-]+", text))
    assert named <= there
    assert f"deployment/{NAME}-orchestrator" in named
    for secret in re.findall(r"get secret ([\w-]+)", text):
        assert secret in of_kind(found, "Secret")
    for line in text.splitlines():
        if line.strip().startswith(("kubectl", "helm")) and not line.rstrip().endswith("\\"):
            shlex.split(line)
        assert f"--namespace {NAMESPACE}" in line or not line.strip().startswith("kubectl")


def test_the_notes_say_how_images_come_in():
    laptop, external = notes("laptop"), notes("external")
    assert "s3://drop/" in laptop
    assert "port-forward service/derm-dermbatch-minio 9000" in laptop
    assert "submits the batch first: s3://incoming/" in laptop
    assert "--set submit.enabled=true" in external
    assert "minio" not in external.lower()
    assert "Network policies are off" in notes("external", "--set", "networkPolicy.enabled=false")
