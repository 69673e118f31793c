"""STOW-RS against a server that says what the test says; the real PACS is met in test_pacs."""

import json
import re
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest
from pydantic import SecretStr, ValidationError
from pydicom import dcmread

from dermbatch.errors import PacsRefused, PacsUnavailable
from dermbatch.handover.pacs import stow
from dermbatch.handover.pacs.stow import Destination, Destinations
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import dicom
from dermbatch.settings.destinations import DicomwebSettings
from orchestrator.stack.ports import free_ports

BODIES = {
    kind: dicom(phantom(number, height=64, width=64), identity=number)
    for number, kind in enumerate(("segmentation", "report"))
}
UIDS = {kind: dcmread(BytesIO(body)).SOPInstanceUID for kind, body in BODIES.items()}


def reply(stored=(), failed=None, warned=None):
    """A body as PS3.18, annex I.2 has it; ``failed`` and ``warned`` are numbers by kind."""

    def item(kind, tag=None, number=None):
        value = {"00081155": {"vr": "UI", "Value": [UIDS[kind]]}}
        return value if tag is None else {**value, tag: {"vr": "US", "Value": [number]}}

    taken = [item(kind) for kind in stored] + [item(k, "00081196", n) for k, n in (warned or {}).items()]
    refused = [item(kind, "00081197", number) for kind, number in (failed or {}).items()]
    sequences = {"00081199": {"vr": "SQ", "Value": taken}, "00081198": {"vr": "SQ", "Value": refused}}
    return json.dumps(sequences).encode()


ALL = reply(UIDS)


class Server(ThreadingHTTPServer):
    """Takes a POST and answers as it is told; remembers what it was sent."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = (200, ALL)
        self.headers = {}
        self.asked = []
        self.act = lambda handler: None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # a client that gives up


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, dict(self.headers), body))
        self.server.act(self)
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def destination(server):
    made = []

    def destination(**changes):
        settings = {"url": f"http://127.0.0.1:{server.server_address[1]}/dicom-web/", "timeout": 5, **changes}
        made.append(Destination("main", DicomwebSettings(**settings)))
        return made[-1]

    yield destination
    for one in made:
        one.close()


def test_what_is_sent(server, destination):
    sent = destination(user="ward", password=SecretStr("geheim ü")).send(BODIES)
    ((path, headers, body),) = server.asked
    assert path == "/dicom-web/studies"
    assert headers["Accept"] == "application/dicom+json"
    assert headers["Authorization"] == "Basic d2FyZDpnZWhlaW0gw7w="
    boundary = re.fullmatch(
        r'multipart/related; type="application/dicom"; boundary=(\w+)', headers["Content-Type"]
    )
    head = b"--%b\r\nContent-Type: application/dicom\r\n\r\n" % boundary[1].encode()
    parts = b"".join(head + one + b"\r\n" for one in BODIES.values())
    assert body == parts + b"--%b--\r\n" % boundary[1].encode()
    assert (sent.to, sent.kinds, sent.warnings) == ("main", ("segmentation", "report"), {})
    destination(token=SecretStr("abc")).send(BODIES)
    assert server.asked[1][1]["Authorization"] == "Bearer abc"
    destination().send(BODIES)
    assert "Authorization" not in server.asked[2][1]


@pytest.mark.parametrize(
    ("status", "body", "warnings"),
    [
        (200, ALL, {}),
        (200, b"", {}),
        (200, b"<xml/>", {}),
        (204, b"", {}),
        (202, reply(["segmentation"], warned={"report": 0xB000}), {"report": "B000"}),
        (409, reply(["segmentation"], failed={"report": 0x0111}), {}),  # it has this one already
        (202, reply(failed={"segmentation": 0x0111, "report": 0x0111}), {}),
    ],
)
def test_what_counts_as_taken(server, destination, status, body, warnings):
    server.answer = (status, body)
    assert destination().send(BODIES).warnings == warnings


@pytest.mark.parametrize(
    ("status", "body", "error", "reason"),
    [
        (200, reply(["segmentation"], failed={"report": 0xA700}), PacsUnavailable, "pacs_unavailable"),
        (200, reply(["segmentation"], failed={"report": 0x0110}), PacsUnavailable, "pacs_unavailable"),
        (200, reply(["segmentation"], failed={"report": 0xC000}), PacsRefused, "pacs_refused"),
        (200, reply(["segmentation"]), PacsUnavailable, "pacs_unavailable"),  # and the report?
        (202, reply(failed={"segmentation": 0xA701, "report": 0x0122}), PacsRefused, "pacs_refused"),
        (202, b"<xml/>", PacsRefused, "pacs_refused"),
        (409, reply(failed={"segmentation": 0xA900}), PacsRefused, "pacs_refused"),
        (409, reply(failed={"segmentation": 0x0124}), PacsRefused, "pacs_denied"),
        (409, b"", PacsRefused, "pacs_refused"),
        (400, b"", PacsRefused, "pacs_refused"),
        (400, reply(failed={"segmentation": 0xA700}), PacsUnavailable, "pacs_unavailable"),
        (301, b"", PacsRefused, "pacs_refused"),
        (401, b"", PacsRefused, "pacs_denied"),
        (403, ALL, PacsRefused, "pacs_denied"),
        (404, b"", PacsRefused, "pacs_refused"),
        (413, b"", PacsRefused, "pacs_refused"),
        (415, b"", PacsRefused, "pacs_refused"),
        (429, b"", PacsUnavailable, "pacs_unavailable"),
        (500, ALL, PacsUnavailable, "pacs_unavailable"),
        (501, b"", PacsRefused, "pacs_refused"),
        (503, b"", PacsUnavailable, "pacs_unavailable"),
    ],
)
def test_what_does_not(server, destination, status, body, error, reason):
    server.answer = (status, body)
    with pytest.raises(error, match="'main'") as raised:
        destination(user="ward", password=SecretStr("geheim")).send(BODIES)
    assert raised.value.reason == reason
    assert not re.search("ward|geheim|127.0.0.1|1\\.2\\.8", str(raised.value))


def test_a_server_that_takes_its_time(server, destination):
    def trickle(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        with suppress(OSError):
            while True:
                handler.wfile.write(b" ")
                time.sleep(0.02)

    server.act = trickle
    with pytest.raises(PacsUnavailable, match="took too long"):
        destination(timeout=0.4).send(BODIES)
    server.act = lambda handler: time.sleep(1)
    with pytest.raises(PacsUnavailable, match="does not answer"):
        destination(timeout=0.2).send(BODIES)


def test_a_server_that_says_without_end(server, destination):
    server.answer = (200, b" " * (stow._MOST_ANSWERED + 1))
    with pytest.raises(PacsUnavailable):
        destination().send(BODIES)


def test_a_server_that_hangs_up(server, destination):
    server.act = lambda handler: handler.connection.shutdown(socket.SHUT_RDWR)
    one = destination()
    with pytest.raises(PacsUnavailable, match="does not answer"):
        one.send(BODIES)
    server.act = lambda handler: None
    one.send(BODIES)  # this server was reached, so it is asked again at once


def test_a_pacs_that_cannot_be_reached_is_let_alone_for_a_while(monkeypatch):
    (port,) = free_ports(1)
    one = Destination("main", DicomwebSettings(url=f"http://127.0.0.1:{port}"))
    with pytest.raises(PacsUnavailable, match="does not answer"):
        one.send(BODIES)
    with pytest.raises(PacsUnavailable, match="a moment ago"):
        one.send(BODIES)
    monkeypatch.setattr(one, "_asked_again", 0.0)
    with pytest.raises(PacsUnavailable, match="does not answer"):
        one.send(BODIES)
    one.close()


def test_a_pacs_that_asks_to_be_let_alone_is(server, destination):
    server.answer = (503, b"busy")
    server.headers = {"Retry-After": "60"}
    one = destination()
    with pytest.raises(PacsUnavailable) as first:
        one.send(BODIES)
    server.answer = (200, ALL)
    with pytest.raises(PacsUnavailable) as second:
        one.send(BODIES)
    assert (first.value.wait, len(server.asked)) == (60, 1)
    assert 0 < second.value.wait <= 60


def test_certificates(server, destination, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*words, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://127.0.0.1:{server.server_address[1]}"
    assert destination(url=url, ca_file=certificate).send(BODIES).to == "main"
    with pytest.raises(PacsRefused, match="certificate") as raised:
        destination(url=url).send(BODIES)
    assert raised.value.reason == "pacs_untrusted"
    with pytest.raises(PacsRefused, match="cannot be read") as raised:
        destination(url=url, ca_file=tmp_path / "none.pem").send(BODIES)
    assert raised.value.reason == "pacs_untrusted"


def test_a_destination_that_is_not_there():
    with pytest.raises(PacsRefused) as raised:
        Destinations({}).named("main")
    assert raised.value.reason == "pacs_unknown"


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://host/"},
        {"url": "http://"},
        {"url": "http://ward:geheim@host/dicom-web"},
        {"url": "http://host/?a=b"},
        {"url": "http://host", "user": "ward"},
        {"url": "http://host", "user": "ward", "password": "geheim", "token": "abc"},
    ],
)
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ValidationError):
        DicomwebSettings(**wrong)
