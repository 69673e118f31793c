"""The webhook over real HTTP: what it answers and hands over, that it logs no key, starts and stops cleanly."""

import http.client
import json
import queue
import socket
import threading
import time
from contextlib import ExitStack, closing, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import httpx
import pytest
from prometheus_client import REGISTRY

from dermbatch.errors import UsageError
from dermbatch.settings import WatchSettings
from orchestrator.watching.news import impatient
from orchestrator.watching.news import webhook as webhook_module
from orchestrator.watching.news.events import ObjectEvent
from orchestrator.watching.news.webhook import Webhook, confirm
from tests.notifications import (
    AWS,
    AWS_TEST,
    CEPH,
    EVENTBRIDGE,
    KEY,
    MINIO,
    SNS_SUBSCRIPTION,
    SUBSCRIBE_URL,
    in_sns,
)
from tests.waiting import patience

TOKEN = "a-token-of-24-characters"
EVENT = ObjectEvent("exports", KEY)


class Watcher:
    """Takes events, until it has no room."""

    def __init__(self):
        self.taken = []
        self.full = False

    def take(self, events):
        if self.full:
            raise queue.Full
        self.taken.extend(events)


@pytest.fixture
def watcher():
    return Watcher()


def no_confirmation(url):
    raise AssertionError("nothing was to be confirmed")


def open_webhook(watcher, confirm=no_confirmation, **settings):
    return Webhook(WatchSettings(**settings), watcher.take, confirm)


@pytest.fixture
def client(watcher):
    with open_webhook(watcher) as webhook, httpx.Client(base_url=f"http://127.0.0.1:{webhook.port}") as client:
        yield client


def counted(outcome):
    return REGISTRY.get_sample_value("dermbatch_notifications_total", {"outcome": outcome}) or 0


@pytest.mark.parametrize(
    "message",
    [AWS, MINIO, CEPH, EVENTBRIDGE, in_sns(AWS)],
    ids=["aws", "minio", "ceph", "eventbridge", "sns"],
)
def test_what_stores_send_is_handed_over_before_the_answer(client, watcher, message):
    before = counted("taken"), REGISTRY.get_sample_value("dermbatch_notified_objects_total")
    # SNS says that it sends plain text.
    answer = client.post("/events", content=json.dumps(message), headers={"Content-Type": "text/plain"})
    assert answer.status_code == 200
    assert watcher.taken == [EVENT]
    after = counted("taken"), REGISTRY.get_sample_value("dermbatch_notified_objects_total")
    assert after == (before[0] + 1, before[1] + 1)


def test_test_events_are_answered_and_hand_nothing_over(client, watcher):
    watcher.full = True
    assert client.post("/events", json=AWS_TEST).status_code == 200
    assert client.head("/events").status_code == 200  # as MinIO looks for its target
    assert watcher.taken == []


def test_it_says_that_it_is_there(client):
    assert client.get("/healthz").status_code == 200
    assert client.get("/openapi.json").status_code == 404


def test_what_is_no_event_is_answered_with_a_sentence(client, watcher):
    before = counted("bad")
    answer = client.post("/events", content=b"Doe^Jane")
    assert (answer.status_code, watcher.taken) == (400, [])
    assert "not an event of an object store" in answer.text
    assert "Doe" not in answer.text
    assert counted("bad") == before + 1


def test_where_there_is_no_room_stores_are_asked_to_send_again(client, watcher):
    watcher.full = True
    answer = client.post("/events", json=AWS)
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
    watcher.full = False
    assert client.post("/events", json=AWS).status_code == 200
    assert watcher.taken == [EVENT]


def chunks(number):
    for _ in range(number):
        yield b" " * 65_536


def test_large_requests_are_refused_whether_they_say_so_or_not(client, watcher):
    assert client.post("/events", content=b" " * (2 << 20)).status_code == 413
    assert client.post("/events", content=chunks(32)).status_code == 413
    # Not one byte less than the limit: what comes behind the spaces is read.
    body = json.dumps(AWS).encode().rjust(1 << 20)
    assert client.post("/events", content=body).status_code == 200
    assert watcher.taken == [EVENT]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
        ({"Authorization": f"bearer  {TOKEN}"}, 200),
        ({"Authorization": TOKEN}, 200),
        ({"Authorization": httpx.BasicAuth("any", TOKEN)._auth_header}, 200),
        ({}, 401),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401),
        ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"Authorization": "Basic ?"}, 401),
        ({"Authorization": httpx.BasicAuth(TOKEN, "any")._auth_header}, 401),
        ({"Authorization": b"Bearer \xff\xfe"}, 401),
    ],
)
def test_without_the_token_nothing_is_taken(watcher, headers, status):
    before = counted("unauthorized")
    with open_webhook(watcher, token=TOKEN) as webhook:
        url = f"http://127.0.0.1:{webhook.port}"
        answer = httpx.post(f"{url}/events", json=AWS, headers=headers)
        assert httpx.get(f"{url}/healthz").status_code == 200
    assert answer.status_code == status
    assert watcher.taken == ([EVENT] if status == 200 else [])
    assert counted("unauthorized") == before + (status == 401)
    assert (answer.headers.get("WWW-Authenticate", "").startswith("Basic")) == (status == 401)


def test_a_subscription_is_confirmed_and_asked_for_again_where_that_fails(watcher):
    visited = []

    def confirm(url):
        visited.append(url)
        if len(visited) == 1:
            raise httpx.ConnectTimeout("no answer")

    with open_webhook(watcher, confirm) as webhook:
        url = f"http://127.0.0.1:{webhook.port}/events"
        answers = [httpx.post(url, json=SNS_SUBSCRIPTION).status_code for _ in range(2)]
        other = {**SNS_SUBSCRIPTION, "SubscribeURL": "https://example.org/"}
        assert httpx.post(url, json=other).status_code == 400
    assert answers == [503, 200]
    assert visited == [SUBSCRIBE_URL] * 2


class Confirming(BaseHTTPRequestHandler):
    """Answers as Amazon SNS, or as somebody who sends elsewhere."""

    visited: ClassVar[list[str]] = []

    def do_GET(self):
        self.visited.append(self.path)
        self.send_response({"/gone": 404, "/elsewhere": 302}.get(self.path, 200))
        self.send_header("Location", "/confirm")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


def test_confirming_is_one_visit_that_has_to_succeed():
    with HTTPServer(("127.0.0.1", 0), Confirming) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        try:
            confirm(f"{url}/confirm?Token=1")
            for path in ("/gone", "/elsewhere"):
                with pytest.raises(httpx.HTTPError):
                    confirm(url + path)
        finally:
            server.shutdown()
            thread.join()
    assert Confirming.visited == ["/confirm?Token=1", "/gone", "/elsewhere"]


def test_many_senders_at_once_lose_nothing(watcher):
    def send(url, first):
        with httpx.Client() as client:
            for number in range(first, first + 25):
                record = json.loads(json.dumps(AWS))
                record["Records"][0]["s3"]["object"]["key"] = f"{number}.png"
                assert client.post(url, json=record).status_code == 200

    with open_webhook(watcher) as webhook:
        url = f"http://127.0.0.1:{webhook.port}/events"
        senders = [threading.Thread(target=send, args=(url, first)) for first in range(0, 200, 25)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    assert sorted(int(event.key.removesuffix(".png")) for event in watcher.taken) == list(range(200))


def test_nothing_of_a_request_is_logged(watcher, caplog, capfd):
    requests = ("/events", json.dumps(CEPH)), ("/events", "Sentinel^Jane"), ("/Sentinel^Jane?key=a", "")
    with (
        caplog.at_level("DEBUG"),
        open_webhook(watcher) as webhook,
        closing(http.client.HTTPConnection("127.0.0.1", webhook.port)) as client,  # it logs nothing itself
    ):
        for path, body in requests:
            client.request("POST", path, body)
            client.getresponse().read()
    output = caplog.text + "".join(capfd.readouterr())
    assert watcher.taken == [EVENT]
    assert "folder one" not in output
    assert "Sentinel" not in output


def test_when_it_has_stopped_the_port_is_free_and_no_thread_is_left(watcher):
    with open_webhook(watcher) as webhook:
        port = webhook.port
        httpx.get(f"http://127.0.0.1:{port}/healthz")
    assert not [thread for thread in threading.enumerate() if thread.name == "webhook"]
    with open_webhook(watcher, listen_port=port) as again:
        assert httpx.post(f"http://127.0.0.1:{port}/events", json=AWS).status_code == 200
        assert again.port == port


def test_it_stops_though_a_client_keeps_its_connection(watcher):
    with socket.socket() as idle, open_webhook(watcher) as webhook:
        idle.connect(("127.0.0.1", webhook.port))
        assert httpx.get(f"http://127.0.0.1:{webhook.port}/healthz").status_code == 200
    assert not [thread for thread in threading.enumerate() if thread.name == "webhook"]


def test_an_address_that_cannot_be_listened_on_is_a_usage_error(watcher):
    with (
        open_webhook(watcher) as first,
        pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1 port {first.port}"),
        open_webhook(watcher, listen_port=first.port),
    ):
        pass
    with (
        pytest.raises(UsageError, match="cannot listen"),
        open_webhook(watcher, listen_address="no.such.host.invalid"),
    ):
        pass


@pytest.mark.parametrize("token", ["short", "with spaces in between", "nöt-ascii-at-all-now"])
def test_tokens_that_cannot_be_sent_or_are_guessed_are_refused(token):
    with pytest.raises(ValueError, match="token"):
        WatchSettings(token=token)


# Attacks: whoever reaches the port sends nothing, or byte by byte, and opens connections without end


def opened(port, *sent):
    connection = socket.create_connection(("127.0.0.1", port), timeout=patience(10))
    for some in sent:
        connection.sendall(some)
    return connection


def ended(connection):
    """Whether it is closed by the other side; waits for that."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


HEAD = b"POST /events HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("sent", [(), (b"P",), (HEAD,), (HEAD + b"X-A: " + b"a" * 200,)])
def test_heads_that_do_not_come_are_not_waited_for(watcher, monkeypatch, sent):
    monkeypatch.setattr(impatient, "HEADERS", 0.2)
    with open_webhook(watcher) as webhook, closing(opened(webhook.port, *sent)) as slow:
        assert ended(slow)
        assert httpx.get(f"http://127.0.0.1:{webhook.port}/healthz").status_code == 200


def test_heads_byte_by_byte_are_cut_off_also_after_a_good_request(watcher, monkeypatch):
    monkeypatch.setattr(impatient, "HEADERS", 0.3)
    with open_webhook(watcher) as webhook, closing(opened(webhook.port)) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in slow.recv(4096)
        with suppress(ConnectionError):
            for _ in range(100):
                slow.sendall(b"x")
                threading.Event().wait(0.05)
            pytest.fail("it is listened to for ever")


def test_bodies_that_do_not_come_are_not_waited_for(watcher, monkeypatch):
    monkeypatch.setattr(webhook_module, "_READING", 0.2)
    sent = HEAD + b"Content-Length: 9\r\n\r\n1"
    with open_webhook(watcher) as webhook, closing(opened(webhook.port, sent)) as slow:
        assert b"408" in slow.recv(4096)
    assert watcher.taken == []


def test_a_slow_request_is_no_reason_to_cut_it_off_within_its_time(watcher, monkeypatch):
    monkeypatch.setattr(impatient, "HEADERS", 0.2)
    body = json.dumps(AWS).encode()
    head = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode()
    with open_webhook(watcher) as webhook, closing(opened(webhook.port, head)) as slow:
        threading.Event().wait(0.4)
        slow.sendall(body)
        assert b"200 OK" in slow.recv(4096)
    assert watcher.taken == [EVENT]


def test_a_flood_of_connections_takes_no_more_than_the_limit_and_is_over_soon(watcher, monkeypatch):
    monkeypatch.setattr(impatient, "CONNECTIONS", 8)
    monkeypatch.setattr(impatient, "HEADERS", 1.0)
    with open_webhook(watcher) as webhook, ExitStack() as held:
        flood = [held.enter_context(closing(opened(webhook.port))) for _ in range(60)]
        deadline = time.monotonic() + patience(20)
        while (most := len(webhook._server.server_state.connections)) > 8:
            assert time.monotonic() < deadline
        assert most <= 8
        # While the flood holds all that there is: what keeps it waiting longest makes room.
        assert httpx.get(f"http://127.0.0.1:{webhook.port}/healthz").status_code == 200
        assert httpx.post(f"http://127.0.0.1:{webhook.port}/events", json=AWS).status_code == 200
        assert all(map(ended, flood))
        assert httpx.post(f"http://127.0.0.1:{webhook.port}/events", json=AWS).status_code == 200
    assert watcher.taken == [EVENT, EVENT]


GOOD = json.dumps(AWS).encode()
GOOD = HEAD + f"Content-Length: {len(GOOD)}\r\n\r\n".encode() + GOOD


@pytest.mark.parametrize("sent", [HEAD, HEAD + b"Content-Length: 9\r\n\r\n"], ids=["heads", "bodies"])
def test_a_request_gets_through_while_a_flood_holds_all_connections(watcher, monkeypatch, sent):
    monkeypatch.setattr(impatient, "CONNECTIONS", 8)
    stop = threading.Event()

    def flood(port):
        with ExitStack() as held:
            while not stop.wait(0.002):
                with suppress(OSError):
                    held.enter_context(closing(opened(port, sent)))

    with open_webhook(watcher) as webhook:
        flooding = threading.Thread(target=flood, args=(webhook.port,))
        flooding.start()
        answered, deadline = 0, time.monotonic() + patience(20)
        try:
            while answered < 10:
                assert time.monotonic() < deadline
                with suppress(ConnectionError), closing(opened(webhook.port, GOOD)) as sender:  # stores send again
                    answered += b" 200 OK" in sender.recv(100)
        finally:
            stop.set()
            flooding.join()
    assert len(watcher.taken) >= answered


def test_who_does_not_read_answers_is_not_waited_for(watcher, monkeypatch):
    monkeypatch.setattr(impatient, "EXCHANGE", 0.5)
    with open_webhook(watcher) as webhook, closing(socket.socket()) as deaf:
        webhook._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of what it accepts: full sooner
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(patience(20))
        deaf.connect(("127.0.0.1", webhook.port))
        with suppress(ConnectionError):
            while True:
                deaf.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        assert httpx.get(f"http://127.0.0.1:{webhook.port}/healthz").status_code == 200


@pytest.mark.parametrize("head", [b"X-A: " + b"a" * 200_000, b"X-A: a\r\n" * 100_000, b"\r\n" * 300_000])
def test_huge_heads_are_refused_and_not_kept(watcher, head):
    with open_webhook(watcher) as webhook, closing(opened(webhook.port)) as rude:
        with suppress(ConnectionError):
            rude.sendall(HEAD + head)
        assert rude.recv(15) in (b"", b"HTTP/1.1 400 Ba") or ended(rude)
        assert httpx.get(f"http://127.0.0.1:{webhook.port}/healthz").status_code == 200
