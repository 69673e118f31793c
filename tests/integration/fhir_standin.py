"""A stand-in for a FHIR server: transactions of conditional creates alone, in memory. Tests meet no real one."""

import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fhir.resources.R4B.bundle import Bundle

JSON = "application/fhir+json; fhirVersion=4.0"


class FhirStandIn(ThreadingHTTPServer):
    """Takes all of a transaction or nothing, as FHIR R4, 3.1.0.11 has it.

    Attributes:
        kept: Resources by type and identifier.
        asked: Headers of what was asked, in order.
        answers: Said instead, one a request, as long as there are any: status, body, headers.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kept = {}
        self.asked = []
        self.answers = []
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/fhir"

    def of(self, kind):
        return [resource for (one, _), resource in self.kept.items() if one == kind]

    def take(self, body):
        """The answer to a transaction: a status for each entry."""
        bundle = json.loads(body)
        Bundle.model_validate(bundle)
        assert bundle["type"] == "transaction"
        with self._lock:
            ids = {entry["fullUrl"]: self._id(entry) for entry in bundle["entry"]}
            return {
                "resourceType": "Bundle",
                "type": "transaction-response",
                "entry": [{"response": {"status": self._kept(entry, ids)}} for entry in bundle["entry"]],
            }

    def _id(self, entry):
        there = self.kept.get(self._key(entry))
        return f"{entry['request']['url']}/{there['id'] if there else uuid.uuid4()}"

    def _key(self, entry):
        request = entry["request"]
        assert request["method"] == "POST"
        system, _, value = request["ifNoneExist"].removeprefix("identifier=").partition("|")
        assert entry["resource"]["identifier"] == [{"system": system, "value": value}]
        return request["url"], value

    def _kept(self, entry, ids):
        """Make a resource unless there is one; references to others of the Bundle become those of the server."""
        key = self._key(entry)
        if key in self.kept:
            return "200 OK"
        text = json.dumps(entry["resource"])
        for url, name in ids.items():
            text = text.replace(f'"{url}"', f'"{name}"')
        self.kept[key] = {**json.loads(text), "id": ids[entry["fullUrl"]].partition("/")[2]}
        return "201 Created"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(dict(self.headers))
        if self.server.answers:
            status, reply, headers = self.server.answers.pop(0)
        elif self.path != "/fhir":
            status, reply, headers = 404, b"", {}
        else:
            status, reply, headers = 200, json.dumps(self.server.take(body)).encode(), {}
        self.send_response(status)
        for name, value in {"Content-Type": JSON, "Content-Length": str(len(reply)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *words):
        pass
