"""The application: the API and the pages behind one door."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from fastapi import Depends, FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware import Middleware

from dermbatch import __version__
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
from desk.api.access import keys
from desk.api.images import Records
from desk.api.related import others, similar
from desk.desk import Desk
from desk.door.blinding import only_unseen
from desk.door.door import Door
from desk.door.keys import Keys
from desk.door.limits import RateLimits
from desk.door.oidc.signon import SignOn
from desk.door.sessions import Sessions
from desk.door.tenancy import only_own
from desk.door.who import Recognition
from desk.pages import entrance, pages, reviewing
from desk.pictures.pictures import DecodedPictures
from desk.results.shelf import Shelf
from desk.review import agreements, decisions, masks, queues, writeback
from orchestrator.similar.shelf import IndexShelf


def application(desk: Desk) -> FastAPI:
    """The desk as an ASGI application; what it keeps goes when it is shut down."""
    settings = desk.settings
    recognition = _recognition(desk)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        app.state.pictures = DecodedPictures(
            settings.desk.cache_bytes, settings.worker.max_pixels, settings.reading.limits
        )
        app.state.pictures.warm()
        yield
        app.state.pictures.close()
        if recognition.sign_on is not None:
            recognition.sign_on.issuer.close()

    app = FastAPI(
        title="Dermbatch",
        version=__version__,
        description="Batches of dermoscopic images and their results. For research and triage support.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        middleware=[Middleware(Door, settings=settings.desk, recognition=recognition, page=pages.wrong)],
    )
    app.state.desk, app.state.shelf, app.state.records = desk, Shelf(), Records()
    app.state.recognition, app.state.keys = recognition, recognition.keys
    app.state.headers, app.state.similar = dicomweb.Headers(), IndexShelf()
    app.state.measured = agreements.Measured()
    problems.install(app, pages.wrong)
    theirs = [Depends(only_own), Depends(only_unseen)]
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
        masks,
        agreements,
        writeback,
        queues,
        keys,
    )
    for module in (*api, pages, reviewing):
        app.include_router(module.router, dependencies=theirs)
    app.include_router(entrance.router)
    app.mount("/static", StaticFiles(directory=Path(str(files("desk.pages").joinpath("static")))), name="static")
    return app


def _recognition(desk: Desk) -> Recognition:
    settings, audit = desk.settings.desk, desk.store.audit
    sessions = Sessions(desk.redis, settings.session)
    sign_on = SignOn(settings, sessions, desk.store) if settings.oidc.issuer is not None else None
    return Recognition(
        settings, sessions, Keys(desk.store, desk.redis), sign_on, RateLimits(desk.redis, settings), audit
    )
