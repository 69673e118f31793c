"""The desk as it serves, in a thread of the tests, on real servers."""

import hashlib
import threading
import time
from contextlib import contextmanager

import cv2
import httpx
import numpy as np
import uvicorn

from dermbatch import layout
from dermbatch.records.outcome import SourceInfo
from dermbatch.settings import AuditSettings, Settings, TenantSettings
from dermbatch.settings.desk import DeskSettings
from dermbatch.stages import Stage
from desk.app import application
from desk.desk import Desk
from desk.door.sessions import Sessions
from orchestrator.batches.outcomes import outcomes
from orchestrator.reporting.table.columns import as_parquet
from orchestrator.stack.ports import free_ports
from tests.outcome_samples import batch_of, entry_of, result_of, table_of, write_manifest, write_record


class Server:
    """A replica, from ``with`` to the end of its block."""

    def __init__(self, redis, store, folder, port=None, tenants=None, **changes):
        self.port = port or free_ports(1)[0]
        self.settings = Settings(
            redis=redis,
            store=store,
            audit=AuditSettings(folder=str(folder / "audit")),
            tenants=TenantSettings(file=tenants),
            desk=DeskSettings(listen_port=self.port, metrics_port=0, **changes),
        )
        self.desk = Desk.of(self.settings)
        self.app = application(self.desk)
        self.url = f"http://127.0.0.1:{self.port}"
        self.audit = folder / "audit"

    def __enter__(self):
        config = uvicorn.Config(
            self.app,
            host="127.0.0.1",
            port=self.port,
            log_config=None,
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *exc):
        self._server.should_exit = True
        self._thread.join()

    def link(self, name="ada"):
        sessions = Sessions(self.desk.redis, self.settings.desk.session)
        return f"{self.url}/enter?link={sessions.link(name)}"

    @property
    def recognition(self):
        return self.app.state.recognition

    @contextmanager
    def client(self, name="ada"):
        """Somebody who is signed in."""
        with httpx.Client(base_url=self.url, timeout=60) as client:
            assert client.get(self.link(name)).status_code == 303
            session = next(iter(client.cookies.values()))
            client.headers["x-csrf-token"] = Sessions(self.desk.redis, 60).csrf(session)
            yield client

    def looks(self):
        """The lines of the audit log."""
        return "".join(path.read_text() for path in sorted(self.audit.glob("*.jsonl")))


def write_batch(store, name, records, folder, closed=True, **asked):
    """A batch with these outcomes, closed with its table or still running."""
    batch = batch_of(name, images=max(record.index for record in records) + 1, **asked)
    write_manifest(store, batch, [entry_of(index) for index in range(batch.images)])
    for record in records:
        write_record(store, record)
    if closed:
        write_table(store, batch)
    return batch


def write_table(store, batch):
    body = as_parquet(table_of([outcome.record for outcome in outcomes(store, batch)]))
    store.put(layout.table(batch.name), body, "application/vnd.apache.parquet")


def pictured(store, batch, index, pixels, *, body=None):
    """A result of a real picture: source, purified picture and mask lie in the store."""
    height, width = pixels.shape[:2]
    body = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes() if body is None else body
    store.put(f"{batch}/{index}", body, "image/png", bucket=store.incoming_bucket)
    record = result_of(batch, index)
    source = record.source.model_dump() | {
        "uri": f"s3://{store.incoming_bucket}/{batch}/{index}",
        "sha256": hashlib.sha256(body).hexdigest(),
        "bytes": len(body),
        "height": height,
        "width": width,
        "pixel_spacing_mm": (0.02, 0.02),
    }
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 255
    purified = pixels.copy()
    purified[:5] = 255 - purified[:5]
    for stage, file, picture in ((Stage.SEGMENT, "mask.png", mask), (Stage.PURIFY, "purified.png", purified)):
        turned = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
        key = record.stages[stage].artifacts[file]
        store.put(key, cv2.imencode(".png", turned)[1].tobytes(), "image/png")
    return record.model_copy(update={"source": SourceInfo(**source)})
