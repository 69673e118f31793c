"""A stand-in for a store with access control, which the tests' real S3 server does not have.

A proxy in front of the real one: it lets everything pass, or answers as S3 does to those it does not let in.
"""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


class Gate:
    """The proxy; a context manager.

    Attributes:
        url: Where it is.
        code: Error code of the answer to requests that are refused.
        refused: HTTP methods that are refused.
    """

    def __init__(self, endpoint_url):
        self.code = "AccessDenied"
        self.refused = set()
        self.refusals = 0
        gate, there = self, urlsplit(endpoint_url)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.command in gate.refused:
                    gate.refusals += 1
                    body = f"<Error><Code>{gate.code}</Code><Message>no</Message></Error>".encode()
                    status, headers = (403 if gate.code == "AccessDenied" else 400), []
                else:
                    connection = http.client.HTTPConnection(there.hostname, there.port)
                    sent = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
                    connection.request(self.command, self.path, body, sent)  # its Host, which is signed
                    answer = connection.getresponse()
                    body, status, headers = answer.read(), answer.status, answer.getheaders()
                    connection.close()
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in {*_HOP_BY_HOP, "content-length", "date", "server"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer  # noqa: N815 - the library's names

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self, *methods, code="AccessDenied"):
        """Refuse these methods from now on; all where none is named."""
        self.code, self.refused = code, set(methods or ("GET", "PUT", "POST", "DELETE", "HEAD"))

    def open(self):
        """Let all pass again."""
        self.refused = set()

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()
