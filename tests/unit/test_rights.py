"""Whom the desk answers: every route of the application, with every role and none, by the door itself."""

import asyncio
import re

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.responses import PlainTextResponse

from dermbatch.audit import NO_AUDIT
from dermbatch.records.access import Role
from dermbatch.settings import Settings
from dermbatch.settings.desk import DeskSettings
from desk.app import application
from desk.desk import Desk, Person
from desk.door import rights
from desk.door.door import Door
from desk.pages import pages

APP = application(Desk.of(Settings()))


def routes(app=APP):
    """Method, route and an address of it, of all routes of an application."""
    for one in iter_route_contexts(app.routes):
        address = re.sub(r"\{[^}]*\}", "1", one.path) + ("/style.css" if one.methods is None else "")
        for method in sorted(one.methods or {"GET"}):
            yield method, one.path, address


class NoLimits:
    def asked(self, name, method):
        pass


class Everybody:
    """Recognises whoever the test says."""

    limits, audit = NoLimits(), NO_AUDIT

    def __init__(self, person):
        self.person = person

    def who(self, headers, scope, *, use=True):
        return self.person


def statuses(person, asked, app=APP):
    """What the door answers to methods and addresses; 299 where it lets through."""

    async def behind(scope, receive, send):
        await PlainTextResponse("through", 299)(scope, receive, send)

    door = Door(behind, DeskSettings(), Everybody(person), pages.wrong)

    async def outside(scope, receive, send):
        await door({**scope, "app": app}, receive, send)

    async def ask():
        transport = httpx.ASGITransport(outside)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return [(await client.request(method, address)).status_code for method, address in asked]

    return asyncio.run(ask())


def status(person, method, address, app=APP):
    return statuses(person, [(method, address)], app)[0]


def test_the_table_has_all_routes_and_none_that_is_gone():
    there = {f"{method} {route}" for method, route, _ in routes()} - {"HEAD /openapi.json"}
    assert there == {*rights.TABLE, *rights.OPEN}
    assert not set(rights.TABLE) & set(rights.OPEN)


@pytest.mark.parametrize("role", [*Role, None])
def test_every_route_answers_the_roles_of_the_table_and_nobody_else(role):
    person = Person("ada", "", frozenset() if role is None else frozenset({role}))
    all_routes = list(routes())
    found = statuses(person, [(method, address) for method, _, address in all_routes])
    for (method, route, _), status_code in zip(all_routes, found, strict=True):
        name = f"GET {route}" if (method, route) == ("HEAD", "/openapi.json") else f"{method} {route}"
        allowed = name in rights.OPEN or role in rights.TABLE[name]
        assert status_code == (299 if allowed else 403), name


def test_nobody_is_answered_where_nothing_is_open():
    all_routes = list(routes())
    found = statuses(None, [(method, address) for method, _, address in all_routes])
    for (method, route, address), status_code in zip(all_routes, found, strict=True):
        api = address.startswith(("/v1", "/dicom-web", "/openapi"))
        is_open = f"{method} {route}" in rights.OPEN
        assert status_code == (299 if is_open else 401 if api else 303), route


def test_a_route_that_the_table_does_not_have_answers_nobody():
    app = FastAPI()
    app.add_api_route("/v1/new", lambda: {}, methods=["GET"])
    for role in Role:
        assert status(Person("ada", "", frozenset({role})), "GET", "/v1/new", app) == 403
    assert {f"{method} {route}" for method, route, _ in routes(app)} - {*rights.TABLE, *rights.OPEN} >= {
        "GET /v1/new"
    }


def test_methods_and_paths_that_are_not_there_are_the_applications_to_refuse():
    anybody = Person("ada", "", frozenset({Role.READER}))
    assert status(anybody, "PUT", "/v1/batches") == 299
    assert status(anybody, "GET", "/v1/nothing") == 299
    assert status(None, "GET", "/v1/nothing") == 401


def test_an_admin_may_all_and_roles_hold_no_others():
    assert all(Role.ADMIN in roles for roles in rights.TABLE.values())
    reader = {route for route, roles in rights.TABLE.items() if Role.READER in roles}
    assert not any(
        route.startswith(("POST /v1/batches", "POST /v1/uploads", "GET /v1/keys"))
        for route in reader
        if "decisions" not in route and "masks" not in route
    )


def test_sockets_are_opened_to_nobody():
    sent = []

    async def send(message):
        sent.append(message["type"])

    door = Door(APP, DeskSettings(), Everybody(Person("ada", "", frozenset(Role))), pages.wrong)
    asyncio.run(door({"type": "websocket", "path": "/v1/batches", "app": APP}, None, send))
    assert sent == ["websocket.close"]
