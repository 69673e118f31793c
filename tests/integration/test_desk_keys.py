"""Keys of programs at the desk, roles on all its routes, and limits of how much is asked."""

import hashlib
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from desk_server import Server
from fastapi.routing import iter_route_contexts

from dermbatch import layout
from dermbatch.records.access import AccessKey, Role
from dermbatch.settings.desk import OidcSettings
from dermbatch.store import ObjectStore
from dermbatch.stored import read, write
from desk.door import rights
from desk.door.keys import Keys
from desk.door.sessions import Session, Sessions

pytestmark = pytest.mark.usefixtures("nothing_refused_yet")


def with_key(server, key):
    return httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}, timeout=60)


def keys_of(server):
    return Keys(ObjectStore(server.settings.store), server.desk.redis)


def test_a_key_is_shown_once_lets_in_by_its_role_and_is_revoked_at_once(server):
    with server.client() as ada:
        made = ada.post(
            "/v1/keys", json={"name": "nightly", "roles": ["operator"], "tenant": "clinic-a", "days": 3}
        )
        assert made.status_code == 201
        key, identifier = made.json()["key"], made.json()["id"]
        stored = read(ObjectStore(server.settings.store), layout.access_key(identifier), AccessKey)
        assert key.rpartition("_")[2] not in stored.to_json().decode()
        assert (stored.by, (stored.expires - stored.made).days) == ("ada", 3)
        with with_key(server, key) as program:
            session = {"name": "key:nightly", "csrf": "", "roles": ["operator"], "tenant": "clinic-a"}
            assert program.get("/v1/session").json() == session
            assert program.get("/v1/keys").status_code == 403
            assert program.post("/v1/batches/none/pause").status_code == 404
            listed = next(one for one in ada.get("/v1/keys").json() if one["id"] == identifier)
            assert listed["used"].startswith(f"{datetime.now(UTC):%Y-%m-%d}")
            assert "digest" not in listed
            assert ada.delete(f"/v1/keys/{identifier}").status_code == 204
            refused = program.get("/v1/session")
            assert (refused.status_code, refused.json()["reason"]) == (401, "bad_key")
        assert ada.delete(f"/v1/keys/{identifier}").status_code == 404
        assert ada.delete("/v1/keys/..%2F..%2Fx").status_code == 404
        assert ada.post("/v1/keys", json={"name": "x", "roles": []}).status_code == 400
        assert ada.post("/v1/keys", json={"name": "x", "roles": ["reader"], "days": 4000}).status_code == 400
    looks = server.looks()
    assert f'"action":"grant","object":"key:{identifier}"' in looks
    assert f'"action":"revoke","object":"key:{identifier}"' in looks


def test_keys_that_are_none_or_have_expired_let_nobody_in(server):
    keys = keys_of(server)
    key, made = keys.add("old", (Role.ADMIN,), "ada", 1, None)
    assert keys.find(key).name == "old"
    write(
        keys.store,
        layout.access_key(made.id),
        made.model_copy(update={"expires": datetime.now(UTC) - timedelta(1)}),
    )
    bad = [
        key,
        f"{key}x",
        key[:-1],
        "dbk_",
        f"dbk_{made.id}_{'A' * 43}",
        "dbk_../../x",
        f"dbk_{'a' * 12}_{'A' * 43}",
    ]
    for one in bad:
        with with_key(server, one) as program:
            answer = program.get("/v1/session")
            assert answer.status_code == 401
            assert answer.json()["reason"] == ("key_expired" if one == key else "bad_key")


def test_a_key_counts_whatever_session_comes_along(server):
    key, _ = keys_of(server).add("plain", (Role.READER,), "ada", 1, None)
    with server.client() as ada:
        assert ada.get("/v1/session", headers={"authorization": f"Bearer {key}"}).json()["name"] == "key:plain"
        bad = {"authorization": "Bearer dbk_bad"}
        assert ada.get("/v1/session", headers=bad).status_code == 401
        assert ada.get("/v1/session", headers={"authorization": "Basic YTpi"}).json()["name"] == "ada"


def test_too_much_is_429_and_says_when_it_goes_on(redis_settings, object_store_settings, tmp_path):
    few = {"requests_per_minute": 6, "changes_per_minute": 2, "refusals_per_minute": 3}
    with Server(redis_settings, object_store_settings, tmp_path, **few) as server, server.client("nina") as nina:
        keys = keys_of(server)
        first, second = (keys.add(name, (Role.ADMIN,), "ada", 1, None)[0] for name in ("busy", "calm"))
        with with_key(server, first) as busy, with_key(server, second) as calm:
            found = [busy.delete("/v1/keys/none").status_code for _ in range(3)]
            assert found == [404, 404, 429]
            found = [busy.get("/v1/session") for _ in range(4)]
            assert [one.status_code for one in found] == [200, 200, 200, 429]
            assert (found[-1].json()["reason"], found[-1].headers["retry-after"] != "") == (
                "too_many_requests",
                True,
            )
            assert calm.get("/v1/session").status_code == 200
            wrong = {"authorization": "Bearer dbk_wrong"}
            found = [httpx.get(f"{server.url}/v1/session", headers=wrong).status_code for _ in range(4)]
            assert found == [401, 401, 401, 429]
            assert httpx.get(f"{server.url}/enter?link=wrong").status_code == 429
            assert calm.get("/v1/session").status_code == 429  # of the same address
            assert nina.get("/v1/session").status_code == 200  # who is in stays in


def test_roles_come_from_the_proxy_that_is_believed(redis_settings, object_store_settings, tmp_path):
    believed = {"user_header": "X-User", "roles_header": "X-Groups", "proxies": ("127.0.0.1/32",)}
    mapped = OidcSettings(roles={"Derm Readers": "reader", "ops": "operator"})
    with Server(redis_settings, object_store_settings, tmp_path, oidc=mapped, **believed) as server:

        def asked(**headers):
            return httpx.get(f"{server.url}/v1/session", headers={"X-User": "ada", **headers})

        assert asked(**{"X-Groups": "Derm Readers, ops,other"}).json()["roles"] == ["operator", "reader"]
        assert asked(**{"X-Groups": "other"}).status_code == 403
        assert asked().status_code == 403
        key, _ = keys_of(server).add("behind", (Role.READER,), "ada", 1, None)
        assert asked(authorization=f"Bearer {key}").json()["name"] == "key:behind"
        assert asked(**{"X-Groups": "ops", "authorization": "Bearer eyJ.of.the-proxy"}).json()["name"] == "ada"


def test_every_route_answers_by_role_and_nobody_unasked(server, redis_settings):
    """As the door's own test, over real servers: where a role allows it, whatever is wrong is something else."""
    keys = keys_of(server)
    asked = []
    for one in iter_route_contexts(server.app.routes):
        address = re.sub(r"\{[^}]*\}", "1", one.path)
        asked += [(f"{method} {one.path}", method, address) for method in one.methods or () if method != "HEAD"]
    for role in (Role.READER, Role.OPERATOR, None):  # the door's own test has all
        key = "" if role is None else keys.add(f"walk {role}", (role,), "ada", 1, None)[0]
        headers = {"authorization": f"Bearer {key}"} if key else {}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
            for name, method, address in asked:
                if name in rights.OPEN or address.endswith("/events"):
                    continue
                status = client.request(method, address).status_code
                if role is None:
                    assert status in {401, 303}, name
                else:
                    assert (status == 403) == (role not in rights.TABLE[name]), (name, role, status)
                    assert status < 500 or status == 503, (name, role, status)


def test_sessions_of_before_there_were_roles_hold(server):
    sessions = Sessions(server.desk.redis, 60)
    server.desk.redis.set(f"desk:session:{hashlib.sha256(b'old').hexdigest()}", json.dumps({"name": "ada"}))
    assert sessions.who("old").roles == frozenset(Role)


def test_what_becomes_of_a_session_prolongs_it_not_and_brings_none_back(server):
    sessions, ada = Sessions(server.desk.redis, 600), Session("ada", frozenset({Role.READER}))
    key = f"desk:session:{hashlib.sha256(b'kept').hexdigest()}"
    sessions.keep("kept", ada)
    server.desk.redis.expire(key, 30)
    sessions.keep("kept", replace(ada, roles=frozenset()), known=True)
    assert sessions.who("kept", use=False).roles == frozenset()
    assert server.desk.redis.ttl(key) <= 30
    sessions.leave("kept")
    sessions.keep("kept", ada, known=True)
    assert sessions.who("kept") is None
