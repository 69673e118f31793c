"""What must hold of every object that the chart renders."""

import re
from datetime import date
from functools import reduce

import pytest
import yaml
from rendering import NAME, SITUATIONS, containers, objects, of_kind, pods, refusal, rendered, selects

from dermbatch.models.endpoints import LOOK_AGAIN
from dermbatch.settings import Settings
from orchestrator.metering.prices import load_prices

SELF_MADE = {"REDIS_PASSWORD", "JOB_NAME", "BUCKET", "INCOMING_BUCKET", "HOME"}
OTHERS = {"AWS_CA_BUNDLE", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
OTHERS |= {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "MALLOC_ARENA_MAX"}
SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|TOKEN|SALT|ROOT_USER|SIGNING")
ALL = [(situation, name) for situation in SITUATIONS for name in pods(objects(situation))]


def pod(situation, name):
    return pods(objects(situation))[name]


def variables(container):
    """Variable to its value, none where a Secret or the pod's own description has it."""
    listed = container.get("env", [])
    assert len({one["name"] for one in listed}) == len(listed), "twice"
    return {one["name"]: one.get("value") for one in listed}


@pytest.mark.parametrize(("situation", "name"), ALL)
def test_pods_are_restricted(situation, name):
    """The profile "restricted" of Kubernetes' pod security standards, and a read-only root."""
    spec = pod(situation, name)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["securityContext"].get("runAsUser") != 0
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    allowed = {"emptyDir", "secret", "configMap", "persistentVolumeClaim"}
    assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])
    for container in containers(pod(situation, name)):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize(("situation", "name"), ALL)
def test_containers_ask_for_what_they_need_and_no_more_than_that(situation, name):
    for container in containers(pod(situation, name)):
        resources = container["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"]), container["name"]
        assert "memory" in resources["limits"]
        assert "cpu" not in resources["limits"]  # throttling costs time, and shares of processors are kept anyway


@pytest.mark.parametrize(("situation", "name"), ALL)
def test_containers_may_write_where_they_have_to(situation, name):
    spec = pod(situation, name)["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    claims = {
        claim["metadata"]["name"]
        for item in of_kind(objects(situation), "StatefulSet").values()
        for claim in item["spec"]["volumeClaimTemplates"]
    }
    for container in containers(pod(situation, name)):
        mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", [])}
        assert set(mounts) <= set(volumes) | claims
        assert container["name"] == "wait-for-triton" or mounts["tmp"] == "/tmp"
    assert "sizeLimit" in volumes["tmp"]["emptyDir"]


@pytest.mark.parametrize(("situation", "name"), ALL)
def test_services_are_looked_after(situation, name):
    """Probes for all that stays, ports that they name, and time to end."""
    found = objects(situation)
    spec = pod(situation, name)["spec"]
    if name in of_kind(found, "Job", "CronJob"):
        assert spec["restartPolicy"] == "Never"
        return
    assert spec["terminationGracePeriodSeconds"] > 0
    for container in spec["containers"]:
        ports = {port["name"] for port in container["ports"]}
        for probe in ("livenessProbe", "readinessProbe"):
            how = container[probe].get("httpGet") or container[probe].get("tcpSocket") or {}
            assert how.get("port", next(iter(ports))) in ports
        if "orchestrator" in container["args" if "args" in container else "command"]:
            # Its page asks Redis; an outage of Redis must not restart it.
            assert "tcpSocket" in container["livenessProbe"]


@pytest.mark.parametrize(("situation", "name"), ALL)
def test_variables_are_settings_that_there_are(situation, name, monkeypatch):
    for variable in [*filter(re.compile("DERMBATCH_").match, __import__("os").environ)]:
        monkeypatch.delenv(variable)
    for container in containers(pod(situation, name)):
        given = variables(container)
        ours = {key: value for key, value in given.items() if key.startswith("DERMBATCH_")}
        assert set(given) - set(ours) <= SELF_MADE | OTHERS
        with monkeypatch.context() as patch:
            for key, value in ours.items():
                patch.setenv(key, "a-secret-of-many-letters" if value is None else value)
            settings = Settings()
        for key in ours:
            *groups, field = key.removeprefix("DERMBATCH_").lower().split("__")
            section = reduce(getattr, groups, settings)
            assert field in section.model_fields_set, key


@pytest.mark.parametrize(("situation", "name"), ALL)
def test_secrets_come_from_secrets(situation, name):
    for container in containers(pod(situation, name)):
        for one in container.get("env", []):
            if SECRET.search(one["name"]):
                assert set(one) == {"name", "valueFrom"}, one["name"]
                assert "secretKeyRef" in one["valueFrom"]
            elif "://" in one.get("value", ""):
                assert "@" not in one["value"] or ":$(REDIS_PASSWORD)@" in one["value"]


@pytest.mark.parametrize("situation", SITUATIONS)
def test_services_and_budgets_select_pods_and_name_their_ports(situation):
    found = objects(situation)
    made = pods(found).values()
    for name, service in of_kind(found, "Service").items():
        chosen = [pod for pod in made if selects(service["spec"]["selector"], pod)]
        assert chosen, name
        for port in service["spec"]["ports"]:
            for one in chosen:
                named = {p["name"]: p["containerPort"] for c in one["spec"]["containers"] for p in c["ports"]}
                assert port["targetPort"] in named, name
    for name, budget in of_kind(found, "PodDisruptionBudget").items():
        chosen = [pod for pod in made if selects(budget["spec"]["selector"]["matchLabels"], pod)]
        assert len(chosen) == 1, name
    for name, item in of_kind(found, "Deployment", "StatefulSet").items():
        chosen = [pod for pod in made if selects(item["spec"]["selector"]["matchLabels"], pod)]
        assert chosen == [item["spec"]["template"]], name


@pytest.mark.parametrize("situation", SITUATIONS)
def test_names_of_secrets_accounts_and_volumes_are_those_of_objects_or_of_the_user(situation):
    found = objects(situation)
    accounts = of_kind(found, "ServiceAccount")
    for pod in pods(found).values():
        account = pod["spec"]["serviceAccountName"]
        assert account in accounts or account == "default"
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in of_kind(found, "ConfigMap")
        for container in containers(pod):
            for one in container.get("env", []):
                reference = one.get("valueFrom", {}).get("secretKeyRef")
                if reference and reference["name"].startswith(NAME):
                    assert reference["key"] in of_kind(found, "Secret")[reference["name"]]["data"]
    for account in accounts.values():
        assert account["automountServiceAccountToken"] is False


def test_workers_have_more_time_to_end_than_their_grace():
    found = rendered("laptop", **{"workers.grace": 45})
    worker = of_kind(found, "Deployment")[f"{NAME}-worker-both"]["spec"]["template"]["spec"]
    assert variables(worker["containers"][0])["DERMBATCH_WORKER__GRACE"] == "45"
    assert worker["terminationGracePeriodSeconds"] >= 45 + 5
    assert "lifecycle" not in worker["containers"][0]  # SIGTERM itself drains


def test_a_worker_waits_for_a_ready_triton_and_is_ready_whatever_becomes_of_it():
    spec = pod("many-gpu-nodes", f"{NAME}-worker-bulk")["spec"]
    (waiting,) = spec["initContainers"]
    assert waiting["args"] == ["python", "-m", "workers.triton.waiting"]
    (worker,) = spec["containers"]
    assert variables(waiting)["DERMBATCH_TRITON__URL"] == variables(worker)["DERMBATCH_TRITON__URL"]
    assert worker["readinessProbe"]["httpGet"] == {"path": "/metrics", "port": "metrics"}


def test_triton_has_time_to_answer_what_it_has_taken():
    spec = pod("one-gpu-node", f"{NAME}-triton")["spec"]
    (triton,) = spec["containers"]
    (seconds,) = re.findall(r"--exit-timeout-secs=(\d+)", " ".join(triton["args"]))
    pause = int(triton["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] >= int(seconds) + pause
    assert pause >= 5 + LOOK_AGAIN  # DNS keeps an answer for 5 s, and then a worker looks


@pytest.mark.parametrize("situation", SITUATIONS)
def test_budgets_let_a_node_be_drained_pod_by_pod(situation):
    """Shares of ``maxUnavailable`` are rounded up, so one may go; ``minAvailable`` would hold a lone pod."""
    budgets = of_kind(objects(situation), "PodDisruptionBudget").values()
    assert budgets
    for budget in budgets:
        assert set(budget["spec"]) == {"maxUnavailable", "selector"}
        assert budget["spec"]["maxUnavailable"] in (1, "25%")


def test_no_pod_shares_memory_with_another():
    for situation, name in ALL:
        for container in containers(pod(situation, name)):
            if "DERMBATCH_TRITON__URL" in variables(container):
                assert variables(container)["DERMBATCH_TRITON__SHARED_MEMORY_BYTES"] == "0"


def test_triton_has_more_shared_memory_than_containers_usually_get():
    """In 64 MB its Python backend found no room for answers of 50 MB, and left requests without any."""
    for situation in SITUATIONS:
        if situation == "external":
            continue
        spec = pod(situation, f"{NAME}-triton")["spec"]
        (triton,) = spec["containers"]
        (name,) = (mount["name"] for mount in triton["volumeMounts"] if mount["mountPath"] == "/dev/shm")
        (volume,) = (volume for volume in spec["volumes"] if volume["name"] == name)
        assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


def test_gpus_are_asked_for_by_the_name_that_is_given():
    found = {situation: pod(situation, f"{NAME}-triton") for situation in SITUATIONS if situation != "external"}
    asked = {
        situation: {name: amount for name, amount in resources["limits"].items() if "/" in name}
        for situation, triton in found.items()
        for resources in [triton["spec"]["containers"][0]["resources"]]
    }
    assert asked["laptop"] == {}
    assert asked["one-gpu-node"] == {"nvidia.com/gpu.shared": 1}
    assert asked["many-gpu-nodes"] == {"nvidia.com/mig-1g.10gb": 1}
    requests = found["many-gpu-nodes"]["spec"]["containers"][0]["resources"]["requests"]
    assert requests == {"cpu": "2", "memory": "4Gi", "nvidia.com/mig-1g.10gb": 1}


def test_openshift_is_left_to_choose_users():
    for made in pods(objects("openshift")).values():
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(made["spec"]["securityContext"])


def test_without_a_way_out_every_image_is_one_of_the_registry_inside_by_digest():
    images = {c["image"] for made in pods(objects("air-gapped")).values() for c in containers(made)}
    assert images
    assert all(re.fullmatch(r"registry\.clinic\.example/mirror/.+@sha256:[0-9a-f]{64}", image) for image in images)


def test_models_come_from_where_they_are_said_to_be():
    volumes = {
        situation: {v["name"]: set(v) - {"name"} for v in pod(situation, f"{NAME}-triton")["spec"]["volumes"]}
        for situation in ("laptop", "air-gapped", "many-gpu-nodes")
    }
    assert "models" not in volumes["laptop"]
    assert volumes["air-gapped"]["models"] == {"persistentVolumeClaim"}
    assert volumes["many-gpu-nodes"]["models"] == {"emptyDir"}
    (copy,) = pod("many-gpu-nodes", f"{NAME}-triton")["spec"]["initContainers"]
    assert copy["args"][:4] == ["s3", "sync", "s3://example-dermbatch-models/repository", "/models"]


def test_every_try_of_a_sweep_has_one_batch_name():
    (job,) = pod("one-gpu-node", f"{NAME}-sweep-nightly")["spec"]["containers"]
    assert job["args"] == [
        "dermbatch", "submit", "--batch", "$(JOB_NAME)", "--weight", "2", "--", "s3://archive/",
    ]  # fmt: skip
    (name,) = [one for one in job["env"] if one["name"] == "JOB_NAME"]
    assert name["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['batch.kubernetes.io/job-name']"


def test_another_order_is_another_job():
    names = {
        name
        for batch in ("first", "second")
        for name in of_kind(rendered("laptop", **{"submit.batch": batch}), "Job")
    }
    assert len(names) == 2


def test_a_change_of_rules_starts_the_watch_service_again():
    sums = {
        rendered_pod["metadata"]["annotations"]["checksum/rules"]
        for settle in (0, 60)
        for rule in [{"name": "drop", "prefix": "s3://drop/", "settle": settle}]
        for rendered_pod in [pods(rendered("laptop", **{"watch.rules": {"rules": [rule]}}))[f"{NAME}-watch"]]
    }
    assert len(sums) == 2


def test_tenants_are_a_file_of_the_programs_that_submit_and_the_desk_needs_them_to_tell_them_apart():
    found = objects("many-gpu-nodes")
    declared = yaml.safe_load(of_kind(found, "ConfigMap")[f"{NAME}-tenants"]["data"]["tenants.yaml"])
    assert [one["name"] for one in declared["tenants"]] == ["default"]
    mount = {"name": "tenants", "mountPath": "/etc/dermbatch/tenants", "readOnly": True}
    reading = {
        name
        for name, made in pods(found).items()
        for one in containers(made)
        if mount in one.get("volumeMounts", [])
    }
    assert {f"{NAME}-desk", f"{NAME}-watch"} <= reading
    assert f"{NAME}-orchestrator" not in reading
    assert "tenants are needed where desk.tenantHeader or desk.oidc.tenantClaim is set" in refusal(
        "many-gpu-nodes", **{"desk.tenantHeader": "X-Tenant", "tenants": None}
    )


def test_price_lists_are_a_file_of_what_closes_batches_and_of_the_desk_and_begin_the_first_again(tmp_path):
    found = objects("many-gpu-nodes")
    body = of_kind(found, "ConfigMap")[f"{NAME}-prices"]["data"]["prices.yaml"]
    (tmp_path / "prices.yaml").write_text(body)
    assert load_prices(tmp_path / "prices.yaml").of("default", date(2026, 3, 1)).name == "2026"
    for name in ("desk", "orchestrator"):
        (one,) = containers(pods(found)[f"{NAME}-{name}"])[:1]
        named = {pair["name"]: pair.get("value") for pair in one["env"]}
        mount = {"name": "prices", "mountPath": "/etc/dermbatch/prices", "readOnly": True}
        assert mount in one["volumeMounts"], name
        assert named["DERMBATCH_METERING__PRICES"] == "/etc/dermbatch/prices/prices.yaml"
    sums = {
        pods(rendered("many-gpu-nodes", **{"prices.currency": currency}))[f"{NAME}-orchestrator"]["metadata"][
            "annotations"
        ]["checksum/prices"]
        for currency in ("EUR", "CHF")
    }
    assert len(sums) == 2
    assert f"{NAME}-prices" not in of_kind(objects("laptop"), "ConfigMap")
