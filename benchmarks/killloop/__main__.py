"""The kill-loop: batches under repeated SIGKILL, restarts and faults; the same for stock Celery; then a verdict.

Real Valkey, a real S3 server behind a chaos proxy, two orchestrators, real Celery workers. The work is a no-op
that takes 5 to 50 ms and writes one artifact and one record; with --real it is the real pipeline and a Triton.

Two tenants have a batch each, of the same images: nothing of one may be the other's, neither files nor bills.

The last line is ``lost=0 duplicated=0 torn=0 billed_twice=0 unbilled=0 kills=... images=...``, and the exit status
is 1 where one of the five is not 0, or a batch did not close in time. They are those of Dermbatch; stock
Celery's, which bills nothing, are in the table.

    python -m benchmarks.killloop --kills N --images N [--seed S] [--real] [--no-stock] [--lease S]
        [--shards N] [--keep DIR]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import redis
from rich.console import Console
from rich.table import Table

from benchmarks.killloop import stock, work
from benchmarks.killloop.clock import library
from benchmarks.killloop.faults import KILLS, OTHERS, REAL_KILLS, Side, for_stock, schedule
from benchmarks.killloop.house import House
from benchmarks.killloop.loop import Loop, LoopOutcome
from benchmarks.killloop.verdict import Verdict, judge, no_op_artifacts_whole, pictures_whole
from dermbatch import layout
from dermbatch.ledger import Ledger
from dermbatch.records.asked import Batch
from dermbatch.settings import LedgerSettings
from dermbatch.store import ObjectStore
from orchestrator.stack.process import python_module

console = Console(highlight=False)

TENANTS = ("clinic-a", "clinic-b")


@dataclass(frozen=True)
class Result:
    """One column of the table."""

    outcome: LoopOutcome
    verdict: Verdict
    own_deaths: dict[str, int]


def ours(options: argparse.Namespace, folder: Path) -> Result:
    """Dermbatch under fire."""
    ledger = LedgerSettings(lease=options.lease, heartbeat=options.lease / 3)
    shards = options.shards
    house = House(
        folder, programs(options), slots=options.slots, ledger=ledger, real=options.real, shards=options.shards
    )
    listed = schedule(options.kills, options.seed, real=options.real, clocks=house.clock is not None)
    try:
        house.start_servers()
        store = ObjectStore(house.straight)
        each = options.images // (shards * len(TENANTS))
        asked = [(tenant, name) for tenant in TENANTS for name in names(house, tenant)]
        batches = [submit(store, name, each, tenant, real=options.real) for tenant, name in asked]
        loop = Loop(house, listed, each * len(batches), options.seed)
        outcome = loop.run(
            lambda: loop.struck_all and all(work.closed(store, batch.name) for batch in batches), options.deadline
        )
        check = pictures_whole if options.real else no_op_artifacts_whole
        verdicts = [judge(store, house.log, one, check, house.hits(one.name), ours=True) for one in batches]
        return Result(outcome, Verdict.of_all(verdicts), dict(house.own_deaths))
    finally:
        house.stop()


def programs(options: argparse.Namespace) -> dict[str, Sequence[str]]:
    """The commands of two orchestrators and some workers for each shard, by name."""
    worker = python_module("benchmarks.killloop.worker", *(["--real"] if options.real else []))
    each = {
        "orchestrator-1": python_module("orchestrator"),
        "orchestrator-2": python_module("orchestrator"),
        **{f"worker-{n + 1}": worker for n in range(options.workers)},
    }
    shards = range(1, options.shards + 1)
    return {
        f"{name}@{shard}" if options.shards > 1 else name: argv for shard in shards for name, argv in each.items()
    }


def names(house: House, tenant: str) -> list[str]:
    """Of a tenant's batch for each shard."""
    tried = [layout.owned(f"{work.BATCH}-{number}", tenant) for number in range(1000)]
    ledgers = [Ledger(one.redis, one.ledger) for one in house.shards]
    return [next(name for name in tried if ledger.owns(name)) for ledger in ledgers]


def of_stock(options: argparse.Namespace, folder: Path) -> Result:
    """Stock Celery under the same fire."""
    worker = python_module("benchmarks.killloop.stock")
    programs = {f"worker-{n + 1}": worker for n in range(options.workers)}
    house = House(folder, programs, slots=options.slots, ledger=LedgerSettings(), clocks=False)
    listed = for_stock(schedule(options.kills, options.seed, clocks=library() is not None))
    try:
        house.start_servers()
        store = ObjectStore(house.straight)
        app = stock.celery_app(house.settings.redis)
        with app.producer_pool.acquire() as producer:
            for index in range(options.images):
                app.send_task(stock.TASK, args=[work.BATCH, index], producer=producer)
        app.close()
        loop = Loop(house, listed, options.images, options.seed)
        outcome = loop.run(stock_ended(house, loop), options.deadline)
        batch = work.no_op_batch(work.BATCH, options.images)
        verdict = judge(store, house.log, batch, no_op_artifacts_whole, house.hits(work.BATCH), ours=False)
        return Result(outcome, verdict, dict(house.own_deaths))
    finally:
        house.stop()


def stock_ended(house: House, loop: Loop) -> Callable[[], bool]:
    """Tells whether stock Celery is through.

    It is if nothing is queued or unacknowledged any more, and no record has come for four visibility time-outs:
    what is not there then never comes.
    """
    seen, since = -1, time.monotonic()

    def ended() -> bool:
        nonlocal seen, since
        recorded = house.recorded()
        if recorded != seen or not loop.struck_all:
            seen, since = recorded, time.monotonic()
        quiet = time.monotonic() - since
        with suppress(redis.RedisError), redis.Redis.from_url(house.settings.redis.url) as client:
            left = client.llen("celery") + client.hlen("unacked")
            return quiet > 4 * stock.VISIBILITY or (left == 0 and quiet > 5)
        return False

    return ended


def submit(store: ObjectStore, name: str, images: int, tenant: str, *, real: bool) -> Batch:
    """A batch of the loop."""
    if real:
        return work.submit_phantoms(store, name, images, height=300, width=400, tenant=tenant)
    batch = work.no_op_batch(name, images, tenant=tenant)
    work.submit(store, batch, work.entries(images))
    return batch


def table(results: dict[Side, Result], options: argparse.Namespace) -> Table:
    """What both have come to."""
    columns = list(results.values())
    made = Table("", *results, title=f"{options.images:,} images, seed {options.seed}")

    def row(name: str, cell: Callable[[Result], object]) -> None:
        made.add_row(name, *(str(cell(result)) for result in columns))

    row("lost", lambda r: r.verdict.lost)
    row("duplicated", lambda r: r.verdict.duplicated)
    row("torn", lambda r: r.verdict.torn)
    row("set apart after three kills of it", lambda r: r.verdict.poisoned)
    row("failures", lambda r: dict(r.verdict.failed) or "")
    made.add_section()
    row("SIGKILLs", lambda r: r.outcome.kills)
    for kind in dict.fromkeys((*KILLS, *REAL_KILLS)):
        if any(result.outcome.struck[kind] for result in columns):
            row(f"  {kind}", lambda r, kind=kind: r.outcome.struck[kind] or "")  # type: ignore[misc]
    made.add_section()
    for kind in OTHERS:
        row(kind, lambda r, kind=kind: r.outcome.struck[kind] or "")  # type: ignore[misc]
    row("ended by themselves", lambda r: r.own_deaths or "")
    made.add_section()
    row("seconds", lambda r: f"{r.outcome.seconds:.0f}")
    row("ended in time", lambda r: "yes" if r.outcome.ended else "no")
    return made


def summary(result: Result) -> dict[str, object]:
    """A column as plain numbers."""
    verdict, outcome = result.verdict, result.outcome
    return {
        "lost": verdict.lost,
        "duplicated": verdict.duplicated,
        "torn": verdict.torn,
        "billed_twice": verdict.billed_twice,
        "unbilled": verdict.unbilled,
        "poisoned": verdict.poisoned,
        "failed": dict(verdict.failed),
        "kills": outcome.kills,
        "faults": dict(outcome.struck),
        "seconds": round(outcome.seconds, 1),
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="real Triton, real stages; not for stock Celery")
    parser.add_argument("--no-stock", action="store_true", help="leave stock Celery out")
    parser.add_argument("--workers", type=int, default=2, help="of each shard")
    parser.add_argument(
        "--shards", type=int, default=1, help="Redis servers, each with programs and batches of its own"
    )
    parser.add_argument("--slots", type=int, default=4, help="images at a time of each worker")
    parser.add_argument("--lease", type=float, default=LedgerSettings().lease, help="seconds")
    parser.add_argument("--deadline", type=float, help="seconds after which what is not there is lost")
    parser.add_argument("--keep", type=Path, help="keep data and logs in this folder, which must be new")
    options = parser.parse_args(arguments)
    if options.deadline is None:
        options.deadline = 180 + 2 * options.kills + 0.1 * options.images * (30 if options.real else 1)
    return options


def main(arguments: list[str]) -> int:
    """Run, print, and return the exit status."""
    options = parse(arguments)
    if library() is None:
        console.print("libfaketime is not installed: Redis's clock is not stepped (Debian: make system-packages)")
    with tempfile.TemporaryDirectory(prefix="dermbatch-killloop-") as place:
        folder = options.keep or Path(place)
        results: dict[Side, Result] = {"dermbatch": ours(options, folder / "dermbatch")}
        if not (options.no_stock or options.real):
            results["stock Celery"] = of_stock(options, folder / "stock")
    console.print(table(results, options))
    for side, result in results.items():
        for sentence in result.verdict.complaints:
            console.print(f"{side}: {sentence}", soft_wrap=True)
    print(json.dumps({side: summary(result) for side, result in results.items()}))
    outcome, verdict = results["dermbatch"].outcome, results["dermbatch"].verdict
    print(
        f"lost={verdict.lost} duplicated={verdict.duplicated} torn={verdict.torn} "
        f"billed_twice={verdict.billed_twice} unbilled={verdict.unbilled} "
        f"kills={outcome.kills} images={options.images}"
    )
    wrong = verdict.lost + verdict.duplicated + verdict.torn + verdict.billed_twice + verdict.unbilled
    return 1 if wrong or not outcome.ended else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
