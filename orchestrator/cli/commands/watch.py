"""``dermbatch watch``: new objects are processed for as long as it runs."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from prometheus_client import start_http_server

from dermbatch.errors import UsageError
from dermbatch.log import configure
from dermbatch.settings import Settings, WatchSettings, load
from dermbatch.store import ObjectStore
from orchestrator.cli import options
from orchestrator.cli.app import err, warn
from orchestrator.planning import submission
from orchestrator.planning.models import Offer
from orchestrator.planning.support import pinned
from orchestrator.watching.rules.rules import RuleBook, load_rules, rule_of_prefix
from orchestrator.watching.watcher import Watcher


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(watch)


def watch(
    prefixes: Annotated[
        list[str] | None,
        typer.Argument(metavar="PREFIX", help="Prefixes to watch, as s3://bucket/prefix.", show_default=False),
    ] = None,
    rules: Annotated[
        Path | None, typer.Option("--rules", metavar="FILE", help="File of rules, instead of prefixes.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="List once, take in what is ready, then stop.")] = False,
    home: options.Home = options.DEFAULT_HOME,
) -> None:
    """Have the running stack process new objects below prefixes, until stopped (SIGTERM, Ctrl-C).

    They are found by listing, or at once if the object store sends notifications.
    """
    settings, store, ledger = options.connect(home)
    settings = settings.model_copy(update={"watch": load().watch})
    book = _book(prefixes, rules)
    _check(book, settings, store)
    configure(settings.log_level)
    watcher = Watcher(settings, book, store, ledger)

    def stop(number: int, frame: Any) -> None:
        watcher.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if once:
        if not watcher.run_once():
            err.print("dermbatch: another watcher is running, and does the rest", markup=False)
        return
    with ExitStack() as ending:
        _serve_metrics(settings.watch, ending)
        if settings.watch.listen_port:
            from orchestrator.watching.news.webhook import Webhook  # noqa: PLC0415 - a web server for watch alone

            ending.enter_context(Webhook(settings.watch, watcher.hear))
        watcher.run()


def _book(prefixes: list[str] | None, rules: Path | None) -> RuleBook:
    if prefixes and rules is not None:
        raise UsageError("give prefixes or --rules FILE, not both")
    if rules is not None:
        return load_rules(rules)
    if not prefixes:
        raise UsageError("nothing to watch: give s3://bucket/prefix, or --rules FILE")
    return rule_of_prefix(*prefixes)


def _check(book: RuleBook, settings: Settings, store: ObjectStore) -> None:
    """Refuse at once what would make every batch of a rule fail."""
    book.check_apart((store.bucket, store.incoming_bucket))
    offer = Offer.of(settings, warn)
    for rule in book.rules:
        order = pinned(submission.admitted(rule.order(settings), settings), rule.support, store, settings)
        submission.check_inputs(order, [rule.prefix], settings)
        submission.check(order, [rule.prefix], settings, store, offer)


def _serve_metrics(settings: WatchSettings, ending: ExitStack) -> None:
    if not settings.metrics_port:
        return
    try:
        server, thread = start_http_server(settings.metrics_port, addr=settings.metrics_address)
    except OSError as error:
        where = f"{settings.metrics_address} port {settings.metrics_port}"
        raise UsageError(
            f"metrics cannot be served at {where}: {error.strerror}; set DERMBATCH_WATCH__METRICS_PORT"
        ) from error
    ending.callback(thread.join)
    ending.callback(server.shutdown)
