"""The way of one image through the house: which rooms (folders) and modules it enters, how often it comes back.

One DICOM phantom is planned and queued, and its message is processed by the real task, by all stages and with
DICOM output, on real servers: Valkey, S3 and Triton with the models that ship. Every call in ``workers`` and
``dermbatch`` is taken down from the message's receipt to the record (``benchmarks/way.py`` says what a call is).

A *return* is a call into a folder that the way has left by calling out of it and that still waits for the answer:
the room is needed again, by one of those that it called. Each pair of caller and callee counts once. So the
figure does not depend on time, on which thread was faster, or on how often a loop turns. Two other counts are
printed beside it.

    python -m benchmarks.house [--seed N]

The last line is ``on_the_way=N returns=N modules=N top_level_over_12=N code_lines=N``: folders entered, returns,
modules entered; then, of the five packages, folders with more than 12 modules at one level, and lines of code.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from itertools import groupby
from pathlib import Path

import redis
from celery import Celery

from benchmarks import codelines
from benchmarks.children import running
from benchmarks.servers import redis_and_s3
from benchmarks.way import Call, Recorder, arrows_back, entries_back, folders, modules, returns
from dermbatch import layout
from dermbatch.images.imagefile import read_image
from dermbatch.ledger import Ledger
from dermbatch.ledger.queue import QUEUES, celery_config
from dermbatch.log import configure
from dermbatch.models.repository import default_model_repository
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import encode
from dermbatch.records.asked import Order
from dermbatch.records.outcome import ResultRecord
from dermbatch.settings import Settings
from dermbatch.stages import ORDER
from dermbatch.store import ObjectStore
from orchestrator.dispatch.dispatcher import Dispatcher
from orchestrator.dispatch.messages import Messages
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.planner import plan
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.servers.triton import TritonPorts, triton_part
from orchestrator.steering.controls import begin
from workers.inference.engine import engine_of
from workers.process.drain import Drain
from workers.process.task import process_image
from workers.process.workplace import Workplace

ROOT = Path(__file__).resolve().parents[1]
ON_THE_WAY = ("workers", "dermbatch")
PACKAGES = ("dermbatch", "orchestrator", "workers", "lesionnets", "desk")
BATCH = "house"
SIZE = (600, 800)


def recorded(folder: Path, seed: int) -> list[Call]:
    """Process one image on servers of its own; the calls that it took."""
    base, ports, start = base_environment(os.environ), free_ports(3), Settings()
    servers, queue_settings, store_settings = redis_and_s3(folder, start.store)
    triton, triton_settings = triton_part(
        folder / "triton",
        folder / "triton.log",
        TritonPorts(*ports),
        base,
        triton=start.triton,
        repository=default_model_repository(),
    )
    changes = {"redis": queue_settings, "store": store_settings, "triton": triton_settings}
    settings = start.model_copy(update=changes)
    with running(*servers, triton):
        message = queued(folder / "phantom.dcm", settings, seed)
        place = Workplace.open(settings, Drain(settings.worker.grace), engine_of(settings))
        place.decode = read_image  # here, where calls are recorded
        recorder = Recorder(ROOT, ON_THE_WAY)
        try:
            with recorder.recording():
                process_image(place, message)
        finally:
            place.close()
        check(place.store)
    return recorder.calls


def queued(path: Path, settings: Settings, seed: int) -> dict[str, object]:
    """Draw the phantom, and have it planned and queued; the message for the worker, taken out of the queue."""
    height, width = SIZE
    path.write_bytes(encode(phantom(seed, height=height, width=width), ".dcm", identity=seed))
    store, ledger = ObjectStore(settings.store), Ledger(settings.redis, settings.ledger)
    order = Order(models=settings.models, dicom=True)
    begin(store, ledger, plan(BATCH, order, Intake(settings, None, in_place=False).walk([str(path)]), store))
    app = Celery(BATCH)
    app.conf.update(celery_config(settings.redis))
    Dispatcher(store, ledger, Messages(app, settings.redis.signing_key), settings.ledger, BATCH).feed()
    app.close()
    with redis.Redis.from_url(settings.redis.url) as client:
        payload = client.rpop(QUEUES["bulk"])
    (message,), _, _ = json.loads(json.loads(payload)["body"])  # type: ignore[arg-type]
    found: dict[str, object] = message
    return found


def check(store: ObjectStore) -> None:
    """See that the image has all that was asked for; else the figures would be of another way."""
    record = ResultRecord.model_validate_json(store.get(store.bucket, layout.result(BATCH, 0)))
    if set(record.stages) != set(ORDER) or len(record.dicom) != 3:
        raise SystemExit(f"the image has stages {list(record.stages)} and DICOM objects {list(record.dicom)} only")


def told(calls: list[Call]) -> str:
    """The way and the returns, as text."""
    lines = ["The way, each module where it is entered first:"]
    for folder, entered in groupby(modules(calls), key=lambda module: module.rpartition("/")[0]):
        lines.append(f"  {folder}: {', '.join(module.rpartition('/')[2] for module in entered)}")
    lines.append("Returns:")
    lines += [f"  {caller} -> {callee}" for caller, callee in returns(calls)] or ["  none"]
    lines.append(
        f"Modules entered first in a folder seen before, coming from another one: {len(entries_back(calls))}"
    )
    lines.append(f"Calls from module to module into another folder, seen before: {len(arrows_back(calls))}")
    return "\n".join(lines)


def summary(calls: list[Call]) -> str:
    """The last line."""
    packages = [ROOT / name for name in PACKAGES]
    figures = {
        "on_the_way": len(folders(calls)),
        "returns": len(returns(calls)),
        "modules": len(modules(calls)),
        "top_level_over_12": len(list(codelines.crowded(packages))),
        "code_lines": codelines.code_lines(packages),
    }
    return " ".join(f"{name}={figure}" for name, figure in figures.items())


def main() -> None:
    """Record and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7, help="of the phantom")
    options = parser.parse_args()
    configure("WARNING")
    with tempfile.TemporaryDirectory(prefix="dermbatch-house-") as place:
        calls = recorded(Path(place), options.seed)
    print(told(calls))
    print(summary(calls))


if __name__ == "__main__":
    main()
