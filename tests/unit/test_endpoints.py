"""Which servers an address leads to, as they come, go, and say that they are not ready."""

import pytest

from dermbatch.models import endpoints
from dermbatch.models.endpoints import Endpoints


class Names:
    """A name server, what the servers say of themselves, and a clock."""

    def __init__(self, monkeypatch, **hosts):
        self.hosts, self.ready, self.asked, self.now = hosts, set(), [], 100.0
        monkeypatch.setattr(endpoints.time, "monotonic", lambda: self.now)

    def of(self, url):
        return Endpoints(url, self.is_ready, lambda host, port: self.hosts.get(host, []))

    def is_ready(self, address):
        self.asked.append(address)
        return address in self.ready


@pytest.fixture
def names(monkeypatch):
    return Names(monkeypatch, pods=["10.0.0.1", "10.0.0.2"], one=["10.0.0.9"], six=["fd00::1", "fd00::2"])


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        ("pods:8001", "ipv4:10.0.0.1:8001,10.0.0.2:8001", "pods:8001"),
        ("dns:///pods:8001", "ipv4:10.0.0.1:8001,10.0.0.2:8001", "pods:8001"),
        ("dns:six:8001", "ipv6:[fd00::1]:8001,[fd00::2]:8001", "six:8001"),
        ("one:8001", "one:8001", None),
        ("nobody:8001", "nobody:8001", None),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2", None),
        ("ipv6:[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2", None),
        ("ipv4:10.0.0.1:1", "ipv4:10.0.0.1:1", None),
        ("unix:/run/triton", "unix:/run/triton", None),
        ("xds:///triton", "xds:///triton", None),
        ("dns://8.8.8.8/pods:8001", "dns://8.8.8.8/pods:8001", None),
    ],
)
def test_an_address_leads_to_all_of_its_servers(names, url, target, authority):
    found = names.of(url)
    assert found.target() == target
    assert found.authority == authority


def test_a_replica_that_comes_or_goes_is_seen_within_seconds(names):
    found = names.of("dns:///pods:8001")
    found.target()
    names.hosts["pods"] = ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    assert found.addresses == ("10.0.0.1:8001", "10.0.0.2:8001")
    names.now += endpoints.LOOK_AGAIN
    assert found.target() == "ipv4:10.0.0.2:8001,10.0.0.3:8001,10.0.0.4:8001"
    names.hosts.clear()  # the name server fails
    names.now += endpoints.LOOK_AGAIN
    assert found.target() == "ipv4:10.0.0.2:8001,10.0.0.3:8001,10.0.0.4:8001"


def test_a_server_that_is_left_gets_requests_again_once_it_is_ready(names):
    found = names.of("ipv4:10.0.0.1:1,10.0.0.2:2")
    found.target()
    found.leave(["10.0.0.1:1"])
    assert found.target() == "ipv4:10.0.0.2:2"
    names.now += 3  # too soon to ask
    assert (found.target(), names.asked) == ("ipv4:10.0.0.2:2", [])
    names.now += 3
    assert (found.target(), names.asked) == ("ipv4:10.0.0.2:2", ["10.0.0.1:1"])
    names.ready.add("10.0.0.1:1")
    names.now += 3
    assert found.target() == "ipv4:10.0.0.1:1,10.0.0.2:2"


def test_where_none_is_ready_all_get_requests(names):
    found = names.of("pods:1")
    found.target()
    found.leave(["10.0.0.1:1", "10.0.0.2:1"])
    assert found.target() == "ipv4:10.0.0.1:1,10.0.0.2:1"


def test_one_that_is_left_and_goes_is_forgotten(names):
    found = names.of("pods:1")
    found.target()
    found.leave(["10.0.0.1:1"])
    names.hosts["pods"] = ["10.0.0.2"]
    names.now += endpoints.LOOK_AGAIN
    assert found.target() == "pods:1"
    assert names.asked == []


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("127.0.0.1:8001", True),
        ("localhost:8001", True),
        ("unix:/run/triton", True),
        ("192.0.2.1:8001", False),  # TEST-NET-1, of RFC 5737: no machine's own
        ("ipv4:127.0.0.1:1,127.0.0.1:2", False),
        ("nowhere.invalid:8001", False),
    ],
)
def test_only_one_server_on_this_machine_is_local(url, local):
    found = Endpoints(url, lambda _: True)
    found.target()
    assert found.local == local
