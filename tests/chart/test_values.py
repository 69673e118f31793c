"""values.yaml, its schema and its description agree."""

import json
import re

import pytest
import yaml
from rendering import CHART, ROOT, SITUATIONS, objects, of_kind, refusal, rendered, template, values_of

from charts.readme import readme, values
from dermbatch import __version__
from tests.unit.test_docs import variables

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES = values((CHART / "values.yaml").read_text(encoding="utf-8"))
TEMPLATES = {
    path: path.read_text(encoding="utf-8")
    for path in (CHART / "templates").rglob("*")
    if path.suffix in {".yaml", ".tpl", ".txt"}
}

OPEN = {"networkPolicy.enabled": False}


def leaves():
    return [value for value in VALUES if not value.group]


def test_the_readme_is_fresh():
    assert (CHART / "README.md").read_text(encoding="utf-8") == readme()


def test_every_value_has_a_comment():
    plain = {"requests", "limits"}
    without = {value.path for value in VALUES if not value.comment and not plain & set(value.path)}
    described = [
        path for path in without if not any(path[: len(v.path)] == v.path and v.comment for v in leaves())
    ]
    assert described == []


def test_the_schema_knows_every_value_and_no_other():
    def names(schema, path=()):
        while "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
        for one in schema.get("oneOf", [schema]):
            for name, inner in one.get("properties", {}).items():
                yield (*path, name)
                yield from names(inner, (*path, name))

    inner = {"resources", "tolerations", "affinity"}
    documented = {value.path for value in VALUES if not {"pools"} & set(value.path[:-1])}
    known = {path for path in names(SCHEMA) if not inner & set(path[:-1])} - {("global",)}
    assert {path for path in documented - known if not inner & set(path)} == set()
    # Below these stands what users fill in: rules of watching and of networks.
    filled = {"metricsFrom", "notificationsFrom", "dnsTo", "storeTo", "redisTo", "tritonTo", "extraEgress"}
    assert {path for path in known - documented if not filled & set(path)} == {
        ("watch", "rules", "profiles"),
        ("watch", "rules", "rules"),
    }


def objects_of(schema):
    """All parts of a schema that describe an object."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            yield schema
        for inner in schema.values():
            yield from objects_of(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from objects_of(inner)


def test_the_schema_lets_no_unknown_name_pass():
    found = list(objects_of(SCHEMA))
    assert len(found) > 20
    assert all(part["additionalProperties"] is False for part in found)


def test_every_value_is_used_by_a_template():
    text = "\n".join(TEMPLATES.values())
    unused = [
        ".".join(value.path)
        for value in leaves()
        if not re.search(rf"\.{re.escape(value.path[-1])}\b|\"{re.escape(value.path[-1])}\"", text)
    ]
    assert unused == []


@pytest.mark.parametrize(
    "changed",
    [
        {"worker.grace": 3},
        {"workers.graze": 3},
        {"workers.pools.both.lane": ["live"]},
        {"workers.pools.both.lanes": ["slow"]},
        {"workers.pools.Both.enabled": True},
        {"triton.gpu.resource": "gpu"},
        {"triton.models.source": "nfs"},
        {"triton.resources.requests.memroy": "1Gi"},
        {"images.worker.digest": "sha256:abc"},
        {"settings": {"DERMBATCH_LEDGER__LEASES": "3"}},
        {"settings": {"DERMBATCH_LEDGER__LEASE": 3}},
        {"settings": {"DERMBATCH_REDIS__URL": "redis://:secret@elsewhere"}},
        {"settings": {"DERMBATCH_WATCH__TOKEN": "a-secret-of-many-letters"}},
        {"store.endpointUrl": "https://user:secret@s3.example.org"},
        {"redis.password": "secret"},
        {"autoscaling.mode": "vpa"},
        {"sweeps": {"nightly": {"schedule": "at night", "inputs": ["s3://archive/"]}}},
        {"sweeps": {"nightly": {"schedule": "0 3 * * *", "inputs": ["/mnt/archive"]}}},
        {"networkPolicy.storePorts": []},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_typo_and_a_secret_are_errors(changed):
    assert "schema" in refusal(**changed)


@pytest.mark.parametrize(
    ("named", "changed"),
    [
        ("redis.urlSecret", {"redis.builtin": False, **OPEN}),
        ("redis.tls.secret", {"redis.tls.enabled": True}),
        ("networkPolicy.redisTo", {"redis.builtin": False, "redis.urlSecret": "a"}),
        ("triton.url", {"triton.enabled": False, **OPEN}),
        ("networkPolicy.tritonTo", {"triton.enabled": False, "triton.url": "a:8001"}),
        ("triton.models.uri", {"triton.models.source": "s3"}),
        ("triton.models.claim", {"triton.models.source": "pvc"}),
        (".digest is missing", {"images.requireDigests": True}),
        ("submit.inputs", {"submit.enabled": True}),
        ("submit.batch", {"submit.enabled": True, "submit.inputs": ["s3://a/"]}),
        ("watch.rules", {"watch.enabled": True}),
        ("monitoring.rules.enabled", {"autoscaling.mode": "keda"}),
        (
            "triton.min",
            {
                "autoscaling.mode": "keda",
                "autoscaling.prometheus.rulesLoaded": True,
                "workers.pools.both.min": 1,
            },
        ),
        ("store.endpointUrl", {"minio.enabled": True, "store.endpointUrl": "http://a"}),
        (
            "watch.tokenSecret",
            {"watch.enabled": True, "watch.rules": {"rules": [{}]}, "watch.ingress.enabled": True},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_go_together_is_named(named, changed):
    assert named in refusal(**changed)


def test_settings_that_can_be_given_are_those_of_the_programs_without_what_the_chart_sets_and_secrets():
    """Where this fails, bring the names in values.schema.json below `settings` up to date."""
    found = (one for situation in SITUATIONS for one in objects(situation))
    given = {name for one in found for name in re.findall(r"'name': '(DERMBATCH_\w+)'", str(one))}
    by_users = {name for s in SITUATIONS for name in yaml.safe_load(values_of(s).read_text()).get("settings", {})}
    secret = re.compile("SECRET|PASSWORD|TOKEN|SALT|DICOMWEB|FHIR|SIGNING|TRITON__KEY|REDIS__SHARDS")
    local = "DERMBATCH_STACK__"
    wanted = {
        name
        for name in variables()
        if name not in given - by_users and not secret.search(name) and not name.startswith(local)
    }
    assert set(SCHEMA["properties"]["settings"]["propertyNames"]["enum"]) == wanted


WAY = [{"ipBlock": {"cidr": "10.0.0.1/32"}}]
OIDC = {
    "desk.enabled": True,
    "desk.oidc.issuer": "https://sso.test",
    "desk.oidc.clientId": "desk",
    "desk.url": "https://desk.test",
    "networkPolicy.issuerTo": WAY,
}


@pytest.mark.parametrize(
    ("named", "changed"),
    [
        ("desk.oidc.issuer or desk.userHeader", {"desk.enabled": True}),
        ("desk.proxies", {"desk.enabled": True, "desk.userHeader": "X-User"}),
        ("desk.oidc.clientId", {**OIDC, "desk.oidc.clientId": ""}),
        ("not both", {**OIDC, "desk.userHeader": "X-User", "desk.proxies": ["10.0.0.0/8"]}),
        ("desk.url", {**OIDC, "desk.url": ""}),
        ("networkPolicy.issuerTo", {**OIDC, "networkPolicy.issuerTo": []}),
        ("schema", {**OIDC, "desk.oidc.issuer": "http://sso.test"}),
        ("schema", {**OIDC, "desk.oidc.roles": {"a": "king"}}),
    ],
)
def test_a_desk_at_which_nobody_could_sign_on_is_refused(named, changed):
    assert named in refusal(**changed)


def test_the_defaults_alone_can_be_installed():
    assert len(of_kind(rendered(None), "Deployment")) == 4


def test_names_follow_the_release_and_can_be_overridden():
    _, text, _ = template(None, fullnameOverride="archive")
    assert "name: archive-orchestrator\n" in text
    assert "derm-dermbatch" not in text


def test_the_chart_and_the_programs_have_one_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    deploy = ROOT / "deploy"
    texts = [path.read_text(encoding="utf-8") for path in (deploy / "compose.yaml", *deploy.glob("*Dockerfile"))]
    named = {
        version for text in texts for version in re.findall(r"ghcr\.io/dermbatch/\w+:(\S+)|VERSION=(.+)", text)
    }
    assert {one or other for one, other in named} == {__version__}
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
