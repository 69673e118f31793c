"""Network policies: each part reaches what it must, and nothing else reaches it."""

import pytest
from rendering import NAME, NAMESPACE, SITUATIONS, objects, of_kind, pods, rendered, selects

from dermbatch.settings import Settings

PORTS = {"redis": 6379, "minio": 9000, "triton": 8001}
NEEDS = {
    "orchestrator": {"redis", "store"},
    "worker": {"redis", "store", "triton"},
    "watch": {"redis", "store", "triton"},
    "desk": {"redis", "store", "triton"},
    "submit": {"redis", "store", "triton"},
}


def component(pod):
    return pod["metadata"]["labels"]["app.kubernetes.io/component"]


def policy(situation, name):
    return of_kind(objects(situation), "NetworkPolicy")[f"{NAME}-{name}"]["spec"]


def lets(rule, direction, pod, port):
    """Whether a rule of a policy lets a pod of this namespace, at this port."""
    peers = rule.get(direction, [])
    ports = {one["port"] for one in rule.get("ports", []) if one["protocol"] == "TCP"}
    return port in ports and any(
        set(peer) == {"podSelector"} and selects(peer["podSelector"]["matchLabels"], pod) for peer in peers
    )


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_pod_is_shut_off_in_both_directions_by_one_policy(situation):
    found = objects(situation)
    for name, pod in pods(found).items():
        chosen = [
            item
            for item in of_kind(found, "NetworkPolicy").values()
            if selects(item["spec"]["podSelector"]["matchLabels"], pod)
        ]
        assert len(chosen) == 1, name
        assert set(chosen[0]["spec"]["policyTypes"]) == {"Ingress", "Egress"}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_one_part_needs_of_another_is_let_through_at_both_ends(situation):
    found = objects(situation)
    by_component = {component(pod): pod for pod in pods(found).values()}
    for client in set(NEEDS) & set(by_component):
        for server in {"redis", "minio", "triton"} & set(by_component):
            needed = ("store" if server == "minio" else server) in NEEDS[client]
            out = policy(situation, client)["egress"]
            into = policy(situation, server)["ingress"]
            there = any(lets(rule, "to", by_component[server], PORTS[server]) for rule in out)
            back = any(lets(rule, "from", by_component[client], PORTS[server]) for rule in into)
            assert (there, back) == (needed, needed), (client, server)


def test_the_desk_alone_is_let_out_to_the_issuer_by_whom_people_sign_on():
    way = {"to": [{"ipBlock": {"cidr": "10.4.0.3/32"}}], "ports": [{"port": 8443, "protocol": "TCP"}]}
    having = [
        name
        for name, item in of_kind(objects("external"), "NetworkPolicy").items()
        if way in item["spec"].get("egress", [])
    ]
    assert having == [f"{NAME}-desk"]
    assert not any("10.4.0.3" in str(one) for one in objects("many-gpu-nodes"))


@pytest.mark.parametrize("situation", SITUATIONS)
def test_names_can_be_resolved_by_whoever_has_a_name_to_look_up(situation):
    found = objects(situation)
    for pod in pods(found).values():
        rules = policy(situation, component(pod))["egress"]
        resolves = any(
            {"port": 53, "protocol": protocol} in rule.get("ports", [])
            for protocol in ("UDP", "TCP")
            for rule in rules
        )
        assert resolves == bool(rules)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_metrics_are_scraped_from_the_monitoring_namespace_alone(situation):
    found = objects(situation)
    for pod in pods(found).values():
        for container in pod["spec"]["containers"]:
            for port in (port for port in container.get("ports", []) if port["name"] == "metrics"):
                rules = policy(situation, component(pod))["ingress"]
                (rule,) = [r for r in rules if {"port": port["containerPort"], "protocol": "TCP"} in r["ports"]]
                assert all("namespaceSelector" in peer for peer in rule["from"])


def test_redis_and_triton_with_models_of_their_own_go_nowhere():
    assert policy("one-gpu-node", "redis")["egress"] == []
    assert policy("one-gpu-node", "triton")["egress"] == []
    stores = [
        rule
        for rule in policy("many-gpu-nodes", "triton")["egress"]
        if {"port": 443, "protocol": "TCP"} in rule["ports"]
    ]
    assert len(stores) == 1  # there they are copied from S3


def test_what_is_elsewhere_is_reached_at_its_address_and_port():
    rules = policy("external", "worker")["egress"]
    reached = {
        (str(peer), port["port"])
        for rule in rules
        for peer in rule["to"]
        for port in rule["ports"]
        if port["port"] != 53
    }
    assert reached == {
        (str({"ipBlock": {"cidr": "10.1.0.5/32"}}), 6380),
        (str({"ipBlock": {"cidr": "10.2.0.0/24"}}), 9443),
        (str({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "models"}}}), 8001),
        (str({"ipBlock": {"cidr": "10.3.0.7/32"}}), 443),
    }


def test_addresses_and_ports_that_programs_are_given_are_those_of_services(monkeypatch):
    found = objects("laptop")
    services = {
        name: {port["port"]: port["targetPort"] for port in item["spec"]["ports"]}
        for name, item in of_kind(found, "Service").items()
    }
    (worker,) = pods(found)[f"{NAME}-worker-both"]["spec"]["containers"]
    given = {one["name"]: one.get("value", "") for one in worker["env"]}
    for name, value in given.items():
        if name.startswith("DERMBATCH_"):
            monkeypatch.setenv(name, value or "a-secret-of-many-letters")
    settings = Settings()
    assert services[settings.redis.url.rpartition("@")[2].partition(":")[0]] == {6379: "redis"}
    assert services[str(settings.store.endpoint_url).removeprefix("http://").partition(":")[0]] == {9000: "s3"}
    host, _, port = settings.triton.url.partition(":")
    assert services[host][int(port)] == "grpc"


def test_workers_know_each_pod_of_triton_or_the_one_address_of_all():
    def reached(**changed):
        found = rendered("many-gpu-nodes", **changed)
        services = of_kind(found, "Service")
        urls = {
            one["value"]
            for pod in pods(found).values()
            for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
            for one in container.get("env", [])
            if one["name"] == "DERMBATCH_TRITON__URL"
        }
        (host,) = {url.partition(":")[0] for url in urls}
        return services, services[host]["spec"], pods(found)[f"{NAME}-triton"]

    services, pods_own, triton = reached()
    assert pods_own["clusterIP"] == "None"
    assert pods_own["publishNotReadyAddresses"] is False  # one that ends is forgotten at once
    assert selects(pods_own["selector"], triton)
    assert [port["name"] for port in pods_own["ports"]] == ["grpc"]  # metrics are scraped of one Service
    assert f"{NAME}-triton-pods" in services
    services, shared, triton = reached(**{"triton.balancing": "service"})
    assert "clusterIP" not in shared
    assert selects(shared["selector"], triton)
    assert f"{NAME}-triton-pods" not in services


def test_minio_may_tell_the_watch_service_of_objects():
    found = objects("laptop")
    watch, minio = (pods(found)[f"{NAME}-{name}"] for name in ("watch", "minio"))
    assert any(lets(rule, "to", watch, 8080) for rule in policy("laptop", "minio")["egress"])
    assert any(lets(rule, "from", minio, 8080) for rule in policy("laptop", "watch")["ingress"])


def test_policies_can_be_left_out():
    found = rendered("laptop", **{"networkPolicy.enabled": False})
    assert of_kind(found, "NetworkPolicy") == {}
    assert all(item["metadata"].get("namespace", NAMESPACE) == NAMESPACE for item in found)
