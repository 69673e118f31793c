"""Two readers on two browsers, while a session ends, a replica dies and an image is run again: nothing is lost."""

import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import httpx
import numpy as np
import pytest
from desk_server import pictured, write_batch
from drawing import HEIGHT, WIDTH, drawn, lesion, on_screen, run_again

from dermbatch import layout
from dermbatch.ledger.connection import Connection
from dermbatch.records.outcome import ResultRecord
from dermbatch.review.agreement import kappa
from dermbatch.review.kept import of_batch
from dermbatch.review.masks import of_runs
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import read
from desk.door.sessions import Sessions
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from tests.acceptance.browser import Seat, chromium
from tests.waiting import patience

IMAGES = 20 if os.environ.get("DESK_CHECK") else 4
BATCH = "two"


class Replicas:
    """Two processes of the desk on two loopback addresses, and a balancer before them."""

    def __init__(self, redis, store, folder):
        self.port = free_ports(1)[0]
        self.ports = free_ports(1)[0]
        settings = {
            "DERMBATCH_REDIS__URL": redis.url,
            "DERMBATCH_REDIS__SIGNING_KEY": redis.signing_key.get_secret_value(),
            "DERMBATCH_STORE__ENDPOINT_URL": store.endpoint_url,
            "DERMBATCH_STORE__ACCESS_KEY_ID": store.access_key_id,
            "DERMBATCH_STORE__SECRET_ACCESS_KEY": store.secret_access_key.get_secret_value(),
            "DERMBATCH_STORE__BUCKET": store.bucket,
            "DERMBATCH_STORE__INCOMING_BUCKET": store.incoming_bucket,
            "DERMBATCH_AUDIT__FOLDER": str(folder / "audit"),
            "DERMBATCH_DESK__LISTEN_PORT": str(self.ports),
            "DERMBATCH_DESK__METRICS_PORT": "0",
        }
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "desk"],
                env={**base_environment(os.environ), **settings, "DERMBATCH_DESK__LISTEN_ADDRESS": address},
            )
            for address in self.addresses
        ]

    addresses = ("127.0.0.1", "127.0.0.2")

    def wait(self):
        for address in self.addresses:
            for _ in range(int(patience(600))):
                try:
                    httpx.get(f"http://{address}:{self.ports}/health")
                    break
                except httpx.TransportError:
                    threading.Event().wait(0.1)

    def _reached(self):
        for address in self.addresses:
            with suppress(OSError):
                return socket.create_connection((address, self.ports))
        return None

    @contextmanager
    def door(self):
        """A balancer of connections: each goes to the first replica that takes it."""
        listening = socket.create_server(("127.0.0.1", self.port))

        def pump(one, other):
            with suppress(OSError):
                while body := one.recv(1 << 16):
                    other.sendall(body)
            for end in (one, other):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            one.close()  # the other one is closed by its own thread

        def serve():
            while True:
                try:
                    asked, _ = listening.accept()
                except OSError:
                    return
                there = self._reached()
                if there is None:
                    asked.close()
                    continue
                for pair in ((asked, there), (there, asked)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{self.port}"
        listening.close()


@pytest.fixture(scope="module")
def replicas(redis_settings, object_store_settings, tmp_path_factory):
    replicas = Replicas(redis_settings, object_store_settings, tmp_path_factory.mktemp("replicas"))
    try:
        replicas.wait()
        yield replicas
    finally:
        for process in replicas.processes:
            process.kill()
            process.wait()


class Reader:
    """One reader in a browser of their own: what they drew, by image."""

    def __init__(self, browser, base, redis, name, shift):
        self.name, self.shift = name, shift
        self._sessions = Sessions(redis, 3600)
        self._base = base
        self.seat = Seat(browser, self.link())
        self.page = self.seat.page
        self.drawn, self.called = {}, {}

    def link(self):
        return f"{self._base}/enter?link={self._sessions.link(self.name)}"

    def begin(self):
        self.seat.go("/review")
        self.page.locator(f"[data-begin={BATCH}]").click()
        self.here()

    def here(self):
        self.page.wait_for_url("**/correct/**")
        self.seat.until("window.ready && viewer.idle", 60)
        return int(self.page.url.partition("?")[0].rpartition("/")[2])

    def draw(self, index, *, between=None):
        """A square by cutting corners: another one for each reader and image."""
        left, top = 60 + 3 * index + self.shift, 60
        self.page.keyboard.press("p")
        for n, place in enumerate(((left, top), (left + 50, top), (left + 50, top + 40), (left, top + 40))):
            if n == 2 and between:
                between()
            self.page.mouse.click(*on_screen(self.page, *place))
        self.page.keyboard.press("Enter")
        label = "melanoma" if (index + (self.name == "bo" and index % 5 == 0)) % 2 else "nevus"
        self.page.get_by_label(label).check()
        self.drawn[index], self.called[index] = drawn(self.page), label

    def keep(self):
        self.page.get_by_role("button", name="Keep", exact=True).click()

    def onward(self, index):
        """Until the next image is there, or none is left."""
        self.seat.until(f"!location.pathname.endsWith('/correct/{BATCH}/{index}')", 90)


def test_every_drawing_is_there_once(redis_settings, object_store_settings, replicas, tmp_path_factory):
    store = ObjectStore(object_store_settings)
    # Pictures of no other module: a new run of one is newer than any result of the same bytes.
    records = [pictured(store, BATCH, n, lesion(100 + n)) for n in range(IMAGES)]
    write_batch(store, BATCH, records, tmp_path_factory.mktemp("two"))
    redis = Connection(redis_settings).redis
    with chromium() as browser, replicas.door() as base:
        ada, bo = (Reader(browser, base, redis, name, shift) for name, shift in (("ada", 0), ("bo", 5)))
        api, token = ada.seat.context.request, None
        token = api.get(f"{base}/v1/session").json()["csrf"]
        asked = {"name": BATCH, "batches": [BATCH], "readers": 2, "blank_share": 1}
        answer = api.post(f"{base}/v1/queues", headers={"x-csrf-token": token}, data=asked)
        assert answer.status == 201, answer.text()
        for reader in (ada, bo):
            reader.begin()
        for turn in range(IMAGES):
            for reader in (ada, bo):
                index = reader.here()
                if turn == 1 and reader is ada:  # her session ends in mid-stroke
                    reader.draw(index, between=reader.seat.context.clear_cookies)
                    reader.keep()
                    reader.page.get_by_text("Your session has ended").wait_for()
                    reader.seat.context.new_page().goto(reader.link())
                    reader.page.bring_to_front()
                    reader.page.evaluate("dispatchEvent(new Event('focus'))")
                elif turn == 2 and reader is bo:  # the replica dies as he draws, and the image is run again
                    ada.here()  # her page has what it asked of that replica: without its scripts no page can wait
                    reader.draw(index, between=replicas.processes[0].kill)
                    newer = np.zeros((HEIGHT, WIDTH), np.uint8)
                    newer[:60, :60] = 255
                    run_again(store, read(store, layout.result(BATCH, index), ResultRecord), newer)
                    reader.keep()
                    reader.page.get_by_text(
                        "Run again since this image was shown: segment (segment_net@2"
                    ).wait_for(timeout=1000 * patience(60))
                    assert np.array_equal(drawn(reader.page), reader.drawn[index])
                    reader.page.get_by_role("button", name="Keep my drawing anyway").click()
                    conflicted = index
                else:
                    reader.draw(index)
                    reader.keep()
                reader.onward(index)
        for reader in (ada, bo):
            reader.page.get_by_text(f"None left in {BATCH} for you").wait_for()
        found = list(of_batch(store, BATCH))
        assert sorted((one.reader, one.index, one.version) for one in found) == sorted(
            (reader.name, index, 1) for reader in (ada, bo) for index in range(IMAGES)
        )
        for one in found:
            reader = ada if one.reader == "ada" else bo
            mask = of_runs(one.mask.counts, HEIGHT, WIDTH) > 0
            assert np.array_equal(mask, reader.drawn[one.index]), (one.reader, one.index)
            assert one.diagnosis == (reader.called[one.index],)
        (one,) = (one for one in found if one.despite)
        assert (one.reader, one.index, one.despite) == ("bo", conflicted, {Stage.SEGMENT: "f" * 32})
        agreement = api.get(f"{base}/v1/queues/{BATCH}/agreement").json()
        # Squares of 50 x 40 pixels that lie 5 pixels apart, give or take one where a corner was set: some 0.9.
        pairs = [(ada.drawn[n], bo.drawn[n]) for n in range(IMAGES)]
        assert agreement["all"]["images"] == IMAGES
        by_hand = [2 * (one & other).sum() / (one.sum() + other.sum()) for one, other in pairs]
        assert agreement["all"]["dice"] == pytest.approx(np.mean(by_hand))
        assert agreement["all"]["dice"] == pytest.approx(0.9, abs=0.03)
        assert agreement["all"]["hausdorff"] == pytest.approx(5, abs=1)
        # Of images 0, 5, 10, 15 bo says the other one.
        others = len(range(0, IMAGES, 5))
        assert agreement["all"]["same"] == pytest.approx((IMAGES - others) / IMAGES)
        names = [[reader.called[n] for n in range(IMAGES)] for reader in (ada, bo)]
        assert agreement["all"]["kappa"] == pytest.approx(kappa(*names))
        if IMAGES == 20:
            # Melanoma by ada 10 of 20 times, by bo too: 0 and 10 more, 5 and 15 not. Chance 0.5, same 16 of 20.
            assert agreement["all"]["kappa"] == pytest.approx((0.8 - 0.5) / 0.5)
        ada.seat.go(f"/agreement/{BATCH}")
        assert ada.page.get_by_text(f"{np.mean(by_hand):.3f}").count() > 1
        folder = os.environ.get("DESK_PICTURES")
        if folder:
            ada.page.screenshot(path=f"{folder}/agreement.png", full_page=True)
        assert ada.seat.judged() == []
        for reader in (ada, bo):
            reader.seat.close()
