"""The application: the API and the pages behind one door."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Query
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware import Middleware

from dermbatch import __version__
from dermbatch.settings import DeskSettings
from desk import problems
from desk.api import (
    batches,
    dicomweb,
    exports,
    images,
    models,
    results,
    rules,
    sets,
    submissions,
    uploads,
)
from desk.api.images import Records
from desk.api.related import others, similar
from desk.desk import Desk, ThePerson
from desk.door.door import Door, cookie_name
from desk.door.sessions import Sessions
from desk.door.tenancy import only_own
from desk.pages import pages
from desk.pictures.pictures import Pictures
from desk.results.shelf import Shelf
from desk.review import decisions
from orchestrator.similar.shelf import IndexShelf


def application(desk: Desk) -> FastAPI:
    """The desk as an ASGI application; what it keeps goes when it is shut down."""
    settings = desk.settings
    sessions = Sessions(desk.redis, settings.desk.session)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        app.state.pictures = Pictures(
            settings.desk.cache_bytes, settings.worker.max_pixels, settings.reading.limits
        )
        app.state.pictures.warm()
        yield
        app.state.pictures.close()

    app = FastAPI(
        title="Dermbatch",
        version=__version__,
        description="Batches of dermoscopic images and their results. For research and triage support.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        middleware=[Middleware(Door, settings=settings.desk, sessions=sessions, page=pages.wrong)],
    )
    app.state.desk, app.state.shelf, app.state.records = desk, Shelf(), Records()
    app.state.headers, app.state.similar = dicomweb.Headers(), IndexShelf()
    problems.install(app, pages.wrong)
    theirs = [Depends(only_own)]
    app.include_router(batches.news, dependencies=theirs)
    api = (
        batches,
        submissions,
        uploads,
        rules,
        results,
        exports,
        images,
        similar,
        others,
        sets,
        models,
        dicomweb,
        decisions,
    )
    for module in (*api, pages):
        app.include_router(module.router, dependencies=theirs)
    app.mount("/static", StaticFiles(directory=Path(str(files("desk.pages").joinpath("static")))), name="static")
    _entrances(app, sessions, settings.desk)
    return app


def _entrances(app: FastAPI, sessions: Sessions, settings: DeskSettings) -> None:
    @app.get("/health", include_in_schema=False)
    def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/v1/session", tags=["session"])
    def session(person: ThePerson) -> dict[str, str | None]:
        """Who is signed in, of which tenant, and the token that goes with what changes something."""
        return {"name": person.name, "tenant": person.tenant, "csrf": person.csrf}

    @app.get("/enter", include_in_schema=False)
    def enter(link: str | None = None, onward: Annotated[str, Query(alias="next")] = "") -> Response:
        session = sessions.enter(link) if link else None
        if session is None:
            return pages.entrance(link is not None, settings.user_header is not None, onward)
        answer = RedirectResponse("/batches", 303)
        answer.set_cookie(cookie_name(settings.listen_port), session, httponly=True, samesite="lax", path="/")
        return answer
