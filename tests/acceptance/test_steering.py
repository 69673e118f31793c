"""Steering batches of a running stack: everything between ``submit`` and the end, as users type it."""

import hashlib
import json
import re
import shutil
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis
from commands import command_line, dermbatch, results

from dermbatch import layout
from dermbatch.ledger import Ledger
from dermbatch.records.outcome import ResultRecord
from dermbatch.stages import ORDER, Stage
from dermbatch.store import ObjectStore
from orchestrator.stack import host
from tests.chart.rendering import NAME, objects, of_kind
from tests.waiting import wait_for

LOOK = 1  # seconds between two looks of the orchestrator for batches and canaries


def with_second_version(small_models, folder):
    """The small models, and a second version of one: the same network, told apart by a remark in its file."""
    repository = shutil.copytree(small_models, folder / "models")
    model = repository / "segment_lite"
    first = (model / "1" / "model.onnx").read_bytes()
    remark = b"second"
    second = first + bytes([6 << 3 | 2, len(remark)]) + remark  # ModelProto.doc_string
    (model / "2").mkdir()
    (model / "2" / "model.onnx").write_bytes(second)
    digest = hashlib.sha256(second).hexdigest()
    with (model / "config.pbtxt").open("a") as config:
        config.write(f'parameters {{ key: "sha256.2" value: {{ string_value: "{digest}" }} }}\n')
    return repository


class Running:
    """A stack that runs, and what the tests know of it."""

    def __init__(self, home, variants):
        self.home = home
        self.settings = host.attach(home)
        self.store = ObjectStore(self.settings.store)
        self.ledger = Ledger(self.settings.redis, self.settings.ledger)
        self.variants = variants

    def __call__(self, *args, code=0):
        """Run a command; what it printed."""
        ended = dermbatch(*args, "--home", self.home)
        assert ended.code == code, (args, ended)
        assert "Traceback" not in ended.err
        return ended.err if code else ended.out

    def standing(self, name):
        (one,) = json.loads(self("status", name, "--json"))["batches"]
        return one

    def wait(self, name):
        """Until a batch is closed; its summary."""
        wait_for(lambda: self.key(layout.summary(name)), 100, f"the end of {name}")
        return json.loads(self.key(layout.summary(name)))

    @contextmanager
    def held(self):
        """The orchestrator does nothing meanwhile: what is submitted is not begun."""
        command = psutil.Process(host.running(self.home).pid).children(recursive=True)
        ours = [process for process in command if command_line(process).endswith("-m orchestrator")]
        for process in ours:
            process.suspend()
        try:
            yield
        finally:
            for process in ours:
                process.resume()

    def key(self, key):
        there = [info.key for info in self.store.list(self.store.bucket, key)]
        return self.store.get(self.store.bucket, key) if key in there else None

    def records(self, name):
        keys = [info.key for info in self.store.list(self.store.bucket, f"batches/{name}/results/")]
        return [ResultRecord.model_validate_json(self.key(key)) for key in keys]

    def keys(self):
        return {info.key for info in self.store.list(self.store.bucket, "")}

    def inferences(self):
        """Images that Triton has inferred, by model and version."""
        port = host.running(self.home).ports["triton-metrics"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        found = (re.fullmatch(r'nv_inference_count{model="(.+)",version="(.+)"} (\d+)', line) for line in lines)
        return {(one[1], one[2]): int(one[3]) for one in found if one}


@pytest.fixture(scope="module")
def stack(samples, small_models, tmp_path_factory):
    """A stack of two slots with two versions of the segmentation, and many small different images."""
    folder = tmp_path_factory.mktemp("steering")
    variants = folder / "variants"
    variants.mkdir()
    jpeg = min(samples.glob("*.jpg"), key=lambda path: path.stat().st_size)
    for number in range(60):
        (variants / f"variant_{number:02d}.jpg").write_bytes(jpeg.read_bytes() + b"%d" % number)
    home = folder / "home"
    repository = with_second_version(small_models, folder)
    env = {"DERMBATCH_ORCHESTRATOR__LOOK_FOR_BATCHES": str(LOOK), "DERMBATCH_LEDGER__WINDOW_PER_SLOT": "1"}
    ended = dermbatch("up", "--home", home, "--workers", "2", "--model-repository", repository, env=env)
    assert ended.code == 0, ended.err
    yield Running(home, variants)
    assert dermbatch("down", "--home", home).code == 0


@pytest.fixture(scope="module")
def first(stack, samples):
    """A finished batch of the sample images, with the first version of the segmentation."""
    stack("submit", samples, "--batch", "first", "--model", "segment=segment_lite@1")
    assert stack.wait("first")["done"] == 8
    return "first"


def test_a_dry_run_counts_and_writes_nothing(stack, first, samples):
    before = stack.keys()
    printed = stack("submit", samples, stack.variants, "--dry-run", "--price", "2.5", "--exclude", "*_0000*",
                 "--model", "segment=segment_lite@1")  # fmt: skip
    for line in ("images  ", "already done", "GPU-seconds", "cost"):
        assert line in printed
    counted = json.loads(stack("submit", samples, stack.variants, "--dry-run", "--price", "2.5", "--json",
                               "--model", "segment=segment_lite@1"))  # fmt: skip
    assert (counted["images"], counted["done"], counted["duplicates"]) == (68, 8, 0)
    assert counted["to_run"] == dict.fromkeys(ORDER, 60)
    assert counted["cost"] == pytest.approx(counted["gpu_seconds"] / 3600 * 2.5)
    assert stack.keys() == before


def test_filters_choose_images(stack, samples):
    stack("submit", samples, "--batch", "some", "--include", "*.jpg", "--exclude", "*_0000*",
          "--model", "segment=segment_lite@1")  # fmt: skip
    wanted = {path.name for path in samples.glob("*.jpg")} - {"phantom_0000.jpg"}
    assert stack.wait("some")["images"] == len(wanted)
    assert {record.name.rpartition("/")[2] for record in stack.records("some")} == wanted


def test_a_second_batch_of_the_same_images_asks_triton_for_nothing(stack, first, samples):
    before = stack.inferences()
    stack("submit", samples, "--batch", "again", "--model", "segment=segment_lite@1")
    summary = stack.wait("again")
    assert (summary["done"], summary["stage_runs"]) == (8, {})
    assert all(set(record.cached) == set(ORDER) for record in stack.records("again"))
    assert stack.inferences() == before
    assert "finished" in stack("status", "again")


def test_a_batch_is_paused_moved_resumed_and_cancelled(stack):
    with stack.held():
        stack("submit", stack.variants, "--batch", "long")
        stack("pause", "long")
    time.sleep(2)  # many looks of the dispatcher
    paused = stack.standing("long")
    assert (paused["state"], paused["why"], paused["done"], paused["in_flight"]) == (
        "paused",
        "paused by hand",
        0,
        0,
    )
    stack("prioritize", "long", "--lane", "live", "--weight", "5")
    assert stack.standing("long") == {**paused, "lane": "live", "weight": 5}
    stack("resume", "long")
    wait_for(lambda: stack.ledger.batches.get("long").done, 60, "progress")
    with stack.held():
        stack("cancel", "long")
    summary = stack.wait("long")
    assert summary["state"] == "cancelled"
    assert 0 < summary["done"] == len(stack.records("long")) < 60
    assert stack.key(layout.report("long"))
    assert stack.key(layout.control("long")) is None
    for command in ("resume", "retry"):
        assert len(stack(command, "long", code=2).splitlines()) == 1


def test_what_failed_for_want_of_an_object_is_tried_again_once_it_is_there(stack, samples):
    image = sorted(samples.glob("*.png"))[0]
    stack.store.create_bucket("archive")
    for number in range(3):
        stack.store.put(f"in/{number}.png", image.read_bytes() + b"%d" % number, "image/png", bucket="archive")
    with stack.held():
        stack("submit", "s3://archive/in/", "--batch", "lost", "--stages", "segment")
        body = stack.store.get("archive", "in/1.png")
        stack.store.delete("in/1.png", bucket="archive")
    summary = stack.wait("lost")
    assert (summary["done"], summary["reasons"]) == (2, {"object_not_found": 1})
    assert "no image failed for poison" in stack("retry", "lost", "--reason", "poison")
    stack.store.put("in/1.png", body, "image/png", bucket="archive")
    assert "1 images will be tried again" in stack("retry", "lost", "--reason", "object_not_found")
    summary = stack.wait("lost")
    assert (summary["done"], summary["failed"]) == (3, 0)


def test_a_new_segmentation_leaves_purification_alone_and_is_compared(stack, first, tmp_path):
    before = stack.inferences()
    stack("resegment", first, "--batch", "newer", "--model", "segment=segment_lite@2")
    assert stack.wait("newer")["done"] == 8
    after = stack.inferences()
    assert after["purify_unet_int8", "1"] == before["purify_unet_int8", "1"]
    assert after["segment_lite", "1"] == before["segment_lite", "1"]
    assert after["segment_lite", "2"] >= before.get(("segment_lite", "2"), 0) + 8
    assert {record.stages[Stage.SEGMENT].model.version for record in stack.records("newer")} == {"2"}
    stack("fetch", "newer", "--out", tmp_path / "out")
    assert len(results(tmp_path / "out")) == 8
    page = stack.key(layout.comparison("newer")).decode()
    assert "segment_lite" in page
    assert stack.key(layout.comparison_table("newer"))


def test_a_canary_looks_on_and_touches_no_result(stack, samples):
    stack("canary", "start", "try", "--model", "segment=segment_lite@2", "--share", "1")
    time.sleep(2 * LOOK)  # until the leader has seen it
    stack("submit", samples, "--batch", "lively", "--live", "--model", "segment=segment_lite@1")
    assert stack.wait("lively")["done"] == 8
    prefix = layout.canary_results("try")
    wait_for(lambda: len(list(stack.store.list(stack.store.bucket, prefix))) == 8, 60, "the canary")
    stack("canary", "stop", "try")
    report = json.loads(stack("canary", "report", "try", "--json"))
    assert (report["mean_dice"], report["same_label"], report["failures"]) == (1.0, 8, {})
    assert "stopped" in stack("canary", "report", "try")
    assert {record.stages[Stage.SEGMENT].model.version for record in stack.records("lively")} == {"1"}


def test_after_a_loss_of_redis_reconcile_goes_on_with_what_is_open(stack):
    with stack.held():
        stack("submit", stack.variants, "--batch", "flushed", "--stages", "segment")
        stack("pause", "flushed")
        with redis.Redis.from_url(stack.settings.redis.url) as client:
            client.flushall()
        assert "flushed: restored" in stack("reconcile")
    assert stack.standing("flushed")["state"] == "paused"
    stack("resume", "flushed")
    assert stack.wait("flushed")["done"] == 60
    stack.store.delete(layout.summary("flushed"))  # as if its closing had been cut off, and the control lost
    assert "flushed: neither closed nor open" in stack("reconcile")
    assert stack.wait("flushed")["done"] == 60


def test_a_damaged_manifest_pauses_the_batch_and_mended_it_finishes(stack):
    key = layout.manifest_part("hurt", "000000")
    with stack.held():
        stack("submit", stack.variants, "--batch", "hurt", "--stages", "segment")
        whole = stack.key(key)
        lines = whole.splitlines(keepends=True)
        stack.store.put(key, b"".join([*lines[:45], b"{\n", *lines[46:]]), "application/x-ndjson")
    wait_for(lambda: stack.ledger.batches.get("hurt").state == "paused", 30, "the pause")
    assert "part 000000 of the manifest of batch 'hurt' is damaged at line 46" in stack("status", "hurt")
    stack.store.put(key, whole, "application/x-ndjson")
    stack("resume", "hurt")
    assert stack.wait("hurt")["done"] == 60


def test_the_same_order_finds_its_batch_and_another_one_does_not_get_its_name(stack, first, samples):
    """A Job's pod that is tried again, and one that an upgrade or a roll-back makes again."""
    order = ("submit", samples, "--batch", first, "--model", "segment=segment_lite@1")
    there, record = stack.keys(), stack.key(layout.batch_record("first"))
    for again in (order, (*order, "--weight", "3")):
        assert stack(*again) == "first\n"
    assert (stack.keys(), stack.key(layout.batch_record("first"))) == (there, record)
    for other, what in ((("--stages", "segment"), "stages and models"), (("--include", "*.jpg"), "filters")):
        refused = stack(*order, *other, code=2)
        assert f"there is a batch 'first' already, of other {what}; choose another name with --batch" in refused
    with stack.held():  # killed between the batch and the word to the ledger, or Redis was emptied then
        stack("submit", stack.variants, "--batch", "cut", "--stages", "segment")
        stack.ledger.batches.forget("cut")
        stack("submit", stack.variants, "--batch", "cut", "--stages", "segment")
        assert stack.ledger.batches.get("cut").images == 60
    assert stack.wait("cut")["done"] == 60


def test_what_helm_test_runs_goes_all_the_way_with_new_images_each_time(stack, tmp_path):
    if not Path(sys.executable).with_name("helm").is_file():
        pytest.skip("needs Helm (make chart-check)")
    spec = of_kind(objects("laptop"), "Pod")[f"{NAME}-test"]["spec"]

    def steps(uid):
        return [
            [
                word.replace("$(POD_UID)", uid).replace("/tmp/phantoms", str(tmp_path / uid))
                for word in one["args"][1:]
            ]
            for one in (*spec["initContainers"], *spec["containers"])
        ]

    before = stack.inferences()
    for uid in ("0f2d", "9c41"):
        assert dermbatch(*steps(uid)[0]).code == 0
    pictures = [{path.read_bytes() for path in (tmp_path / uid).iterdir()} for uid in ("0f2d", "9c41")]
    assert [len(drawn) for drawn in pictures] == [4, 4]
    assert pictures[0].isdisjoint(pictures[1])
    printed = [stack(*step) for step in steps("9c41")[1:]][-1]
    assert "test-9c41: 4 results and 0 failures" in printed
    assert sum(stack.inferences().values()) >= sum(before.values()) + 4


def test_what_cannot_be_is_refused_with_one_sentence(stack, first, samples):
    cases = (
        (("submit", samples, "--batch", first), "there is a batch 'first' already"),
        (("submit", samples, "--model", "segment=segment_lite@9"), "'9'"),
        (("submit", samples, "--batch", "../up"), "cannot be used"),
        (("resegment", "nope", "--model", "segment=segment_lite@2"), "there is no batch 'nope'"),
        (("resegment", first, "--model", "segment=segment_lite"), "pin a version"),
        (("resegment", first, "--model", "segment=segment_lite@9"), "'9'"),
        (("prioritize", first), "--lane, --weight or both"),
        (("pause", first), "batch 'first' has ended"),
        (("retry", "nope"), "there is no batch 'nope'"),
        (("canary", "start", "x", "--model", "segment=segment_lite"), "give a version"),
        (("canary", "report", "nope"), "there is no canary nope"),
        (("status", "--watch"), "--watch needs"),
    )
    with ThreadPoolExecutor(3) as pool:
        for (args, sentence), refused in zip(
            cases, pool.map(lambda case: stack(*case[0], code=2), cases), strict=True
        ):
            assert sentence in refused, (args, refused)
            assert len(refused.splitlines()) == 1, refused
