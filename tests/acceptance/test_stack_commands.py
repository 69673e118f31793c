"""``up``, ``submit``, ``watch``, ``status``, ``fetch`` and ``down``, two stacks side by side."""

import hashlib
import json
import shutil
import signal
import urllib.request
from pathlib import Path

import boto3
import numpy as np
import psutil
import pytest
from commands import Command, alive, dermbatch, failures, results
from PIL import Image

from dermbatch import layout
from dermbatch.client import Client
from dermbatch.errors import ObjectNotFound, StackError, UsageError
from dermbatch.ledger import Ledger
from dermbatch.records.outcome import FailureRecord
from dermbatch.settings import TritonSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.stack import host
from orchestrator.stack.ports import free_ports
from tests.waiting import wait_for

ENV = {"DERMBATCH_WATCH__EVERY": "1", "DERMBATCH_WATCH__METRICS_PORT": "0"}
RULES = """
rules:
  - name: clinic
    prefix: s3://pacs/clinic
  - name: study
    prefix: s3://pacs/study
    lane: bulk
    stages: [segment]
    marker: READY
"""


@pytest.fixture(scope="module")
def homes(tmp_path_factory, small_models):
    """Two stacks that run side by side."""
    homes = [tmp_path_factory.mktemp("stack") / name for name in ("one", "two")]
    for home in homes:
        ended = dermbatch("up", "--home", home, "--workers", "2", "--model-repository", small_models)
        assert ended.code == 0, ended.err
        assert "127.0.0.1:" in ended.out
    yield homes
    states = [host.running(home) for home in homes]
    pids = [part.pid for state in states for part in state.parts.values()] + [state.pid for state in states]
    processes = [psutil.Process(pid) for pid in pids]
    for home in homes:
        assert dermbatch("down", "--home", home).code == 0
    assert [process for process in processes if alive(process)] == []


def metrics(home, part):
    port = host.running(home).ports[part]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return answer.read().decode()


def finished(home, batch):
    ended = dermbatch("status", batch, "--home", home)
    assert ended.code == 0, ended.err
    return "finished" in ended.out


def test_a_stack_is_started_once_in_a_home(homes):
    ended = dermbatch("up", "--home", homes[0])
    assert ended.code == 2
    assert "already" in ended.err


def test_submitted_images_are_processed_and_fetched(homes, samples, tmp_path):
    home = homes[0]
    ended = dermbatch("submit", samples, "--home", home, "--batch", "night")
    assert (ended.code, ended.out.strip()) == (0, "night")
    wait_for(lambda: finished(home, "night"), 120, "the batch")
    assert dermbatch("status", "night", "--home", home, "--watch").code == 0
    assert dermbatch("fetch", "night", "--home", home, "--out", tmp_path / "out").code == 0
    assert len(results(tmp_path / "out")) == 8
    assert failures(tmp_path / "out") == {}
    assert "night" in dermbatch("status", "--home", home).out
    assert "night" not in dermbatch("status", "--home", homes[1]).out
    worker, orchestrator = metrics(home, "worker"), metrics(home, "orchestrator")
    assert 'dermbatch_images_total{outcome="done"} 8.0' in worker
    for name in (
        "dermbatch_stage_seconds_bucket",
        "dermbatch_triton_request_seconds_count",
        "dermbatch_bytes_read_total",
    ):
        assert name in worker
    # Two slots for all images, and one more for live ones alone.
    for name in ("dermbatch_in_flight_images", "dermbatch_queue_depth", "dermbatch_worker_slots 3.0"):
        assert name in orchestrator


def test_a_file_is_processed_first_and_then_compared(homes, samples, tmp_path):
    """A picture that the stack has not seen: another one's, brighter, so that other bytes are the same lesion."""
    home, path = homes[0], tmp_path / "new.png"
    wait_for(lambda: finished(home, "night"), 120, "the batch")
    rebuilt = dermbatch("cases", "rebuild", "--home", home)
    assert "8 cases" in rebuilt.out, rebuilt.out + rebuilt.err
    picture = np.asarray(Image.open(sorted(samples.glob("*.png"))[0]).convert("RGB"))
    Image.fromarray(np.clip(1.05 * picture, 0, 255).astype(np.uint8)).save(path)
    ended = dermbatch("similar", path, "--home", home, "--json", "--same", "--count", 3)
    assert ended.code == 0, ended.err
    told = json.loads(ended.out)
    assert told["image"]["name"] == "new.png"
    assert [case["batch"] for case in told["cases"]] == ["night"] * 3
    similar = [case["similarity"] for case in told["cases"]]
    assert similar == sorted(similar, reverse=True)
    assert all(case["matches"] for case in told["cases"])
    path.write_bytes(b"text")
    ended = dermbatch("similar", path, "--home", home)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert dermbatch("similar", tmp_path / "missing.png", "--home", home).code == 2


def test_objects_are_processed_where_they_lie_also_out_of_archives(homes, samples, small_models, tmp_path):
    home = homes[1]
    settings = host.attach(home)
    client = boto3.client(
        "s3",
        endpoint_url=settings.store.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=settings.store.access_key_id,
        aws_secret_access_key=settings.store.secret_access_key.get_secret_value(),
    )
    client.create_bucket(Bucket="archive")
    images = sorted(samples.iterdir())
    client.upload_file(str(images[0]), "archive", "study 1/a b.jpg")
    client.put_object(Bucket="archive", Key="study 1/notes.txt", Body=b"text")
    packed = shutil.make_archive(str(tmp_path / "export"), "zip", samples)
    client.upload_file(packed, "archive", "study 1/export.zip")
    assert dermbatch("submit", "s3://archive/study 1/", "--home", home, "--batch", "s3", "--live").code == 0
    wait_for(lambda: finished(home, "s3"), 120, "the batch")
    assert dermbatch("fetch", "s3", "--home", home, "--out", tmp_path / "out").code == 0
    found = results(tmp_path / "out")
    assert len(found) == 9
    alone = found["s3://archive/study 1/a b.jpg"]
    packed = found[f"s3://archive/study 1/export.zip/{images[0].name}"]
    assert alone.source.uri == "s3://archive/study 1/a b.jpg"
    assert alone.source.sha256 == packed.source.sha256
    client.close()
    elsewhere = {
        "DERMBATCH_STORE__ENDPOINT_URL": settings.store.endpoint_url,
        "DERMBATCH_STORE__ACCESS_KEY_ID": settings.store.access_key_id,
        "DERMBATCH_STORE__SECRET_ACCESS_KEY": settings.store.secret_access_key.get_secret_value(),
    }
    inputs = ("s3://archive/study 1/a b.jpg", "s3://archive/nothing/", "s3://missing/x")
    ended = dermbatch("run", *inputs, "--out", tmp_path / "run", "--model-repository", small_models, env=elsewhere)
    assert ended.code == 1, ended.err
    assert list(results(tmp_path / "run")) == [inputs[0]]
    assert {name: failure.reason for name, failure in failures(tmp_path / "run").items()} == {
        inputs[1]: "empty_prefix",
        inputs[2]: "bucket_not_found",
    }


def growing(home, rule):
    """Name and results of the batch that takes images in by a rule."""
    settings = host.attach(home)
    states = Ledger(settings.redis, settings.ledger).batches.all()
    return next(((state.name, state.done) for state in states if state.rule == rule and state.growing), None)


def test_what_is_put_into_a_watched_bucket_ends_as_results(homes, samples, tmp_path):
    home = homes[0]
    store = ObjectStore(host.attach(home).store)
    store.create_bucket("pacs")
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    images = sorted(samples.iterdir())
    packed = Path(shutil.make_archive(str(tmp_path / "export"), "zip", samples)).read_bytes()

    def put(key, body):
        store.put(key, body, "application/octet-stream", bucket="pacs")

    put("study/export.zip", packed)
    put("study/again.jpg", images[0].read_bytes())
    put("clinic/first", images[0].read_bytes())  # known by its content
    put("clinic/notes.txt", b"text")
    watching = Command("watch", "--rules", rules, "--home", home, env=ENV)
    try:
        wait_for(lambda: (growing(home, "clinic") or ("", 0))[1] == 1, 90, "the first image")
        assert growing(home, "study") is None  # listed in the same round, and not ready
        put("study/READY", b"-")
        wait_for(lambda: (growing(home, "study") or ("", 0))[1] == 9, 120, "the study's images")
    finally:
        watching.process.send_signal(signal.SIGTERM)
        ended = watching.end()
    assert (ended.code, ended.out) == (0, "")
    assert "first" not in ended.err  # names of objects may be patients'
    assert dermbatch("watch", "--rules", rules, "--once", "--home", home, env=ENV).code == 0
    name, done = growing(home, "study")
    assert done == 9
    assert "takes images in by rule study" in dermbatch("status", name, "--home", home).out
    assert dermbatch("cancel", name, "--home", home).code == 0
    wait_for(lambda: list(store.list(store.bucket, layout.summary(name))), 60, "its end")
    assert dermbatch("fetch", name, "--home", home, "--out", tmp_path / "out").code == 0
    found = results(tmp_path / "out")
    assert (len(found), failures(tmp_path / "out")) == (9, {})
    assert {tuple(record.stages) for record in found.values()} == {(Stage.SEGMENT,)}


def test_what_cannot_be_watched_is_refused_with_one_sentence(homes, tmp_path):
    for args, sentence in (
        ((), "nothing to watch"),
        (("s3://incoming/x",), "which the system itself writes to"),
        (("s3://pacs", "--rules", tmp_path / "none.yaml"), "not both"),
    ):
        ended = dermbatch("watch", *args, "--home", homes[0])
        assert ended.code == 2, ended
        assert sentence in ended.err
        assert len(ended.err.splitlines()) == 1


def test_python_submits_waits_and_reads_results_and_arrays(homes, samples, tmp_path):
    client = Client.local(homes[0])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    batch = client.submit(samples, tmp_path / "broken.png", models={"segment": "segment_lite"}, lane="live")
    assert client.status(batch).images == 9
    with pytest.raises(TimeoutError, match=batch):
        client.wait(batch, timeout=0)
    ended = client.wait(batch, timeout=120)
    assert (ended.state, ended.done, ended.failed, ended.name) == ("finished", 8, 1, batch)
    *found, broken = client.results(batch)
    assert [outcome.index for outcome in found] == list(range(8))
    assert isinstance(broken, FailureRecord)
    assert broken.name == "broken.png"
    assert ended.reasons == {broken.reason: 1}
    for result in found:
        height, width = result.source.height, result.source.width
        mask = client.array(result, "mask.png")
        assert (mask.shape, mask.dtype) == ((height, width), np.uint8)
        assert np.count_nonzero(mask) == result.stages[Stage.SEGMENT].output.lesion.area_px
        purified = client.array(result, "purified.png")
        assert (purified.shape, purified.dtype) == ((height, width, 3), np.uint8)
        vector = client.array(result, "embedding.npy")
        assert (vector.ndim, vector.dtype) == (1, np.float32)
        kept = result.stages[Stage.CLASSIFY].output.embedding_sha256
        assert hashlib.sha256(vector.tobytes()).hexdigest() == kept
    assert dermbatch("fetch", batch, "--home", homes[0], "--out", tmp_path / "out").code == 0
    fetched = tmp_path / "out" / found[0].stages[Stage.SEGMENT].artifacts["mask.png"]
    assert client.artifact(found[0], "mask.png") == fetched.read_bytes()
    with Image.open(tmp_path / "out" / found[0].stages[Stage.PURIFY].artifacts["purified.png"]) as picture:
        assert np.array_equal(client.array(found[0], "purified.png"), np.asarray(picture))
    with pytest.raises(ObjectNotFound, match=r"has no mask\.jpg"):
        client.artifact(found[0], "mask.jpg")


def test_python_is_told_what_cannot_be(homes, samples, tmp_path):
    with pytest.raises(StackError, match="no stack is running"):
        Client.local(tmp_path / "nowhere")
    settings = host.attach(homes[0])
    client = Client(settings)
    for ask in (client.status, client.wait, client.results):
        with pytest.raises(UsageError, match="there is no batch 'nope'"):
            ask("nope")
    for asked, sentence in (
        ({"stages": ["guess"]}, "no such stage: guess"),
        ({"models": {"segment": "none"}}, "no model 'none' in Triton"),
        ({"models": {"guess": "none"}}, "STAGE one of"),
        ({"send_to": "main"}, "no PACS 'main'"),
        ({"batch": "../up"}, "cannot be used"),
        ({"weight": 1000}, "weight: "),
        ({"wait": 1}, "wait: "),
    ):
        with pytest.raises(UsageError, match=sentence):
            client.submit(samples, **{"batch": "refused", **asked})
    with pytest.raises(UsageError, match="no such file or folder"):
        client.submit(tmp_path / "nothing")
    with pytest.raises(UsageError, match="there is no batch 'refused'"):
        client.status("refused")
    silent = settings.model_copy(update={"triton": TritonSettings(url=f"127.0.0.1:{free_ports(1)[0]}")})
    with (
        pytest.warns(UserWarning, match="models are not checked"),
        pytest.raises(UsageError, match="no such file"),
    ):
        Client(silent).submit(tmp_path / "nothing")


def test_commands_without_a_stack_or_a_batch_say_so(homes, samples, tmp_path):
    for args in (("submit", samples), ("status",), ("fetch", "x", "--out", tmp_path / "o"), ("down",)):
        ended = dermbatch(*args, "--home", tmp_path / "nowhere")
        assert ended.code == 1
        assert "no stack is running" in ended.err
    for args in (("status", "nope"), ("fetch", "nope", "--out", tmp_path / "o")):
        ended = dermbatch(*args, "--home", homes[0])
        assert ended.code == 2
        assert "there is no batch" in ended.err


def test_results_are_fetched_and_verified_where_no_stack_runs_any_more(samples, small_models, tmp_path):
    home, env = tmp_path / "home", {}
    assert dermbatch("up", "--home", home, "--model-repository", small_models).code == 0
    assert dermbatch("submit", samples, "--batch", "rest", "--home", home).code == 0
    assert dermbatch("status", "rest", "--watch", "--home", home).code == 0
    store = host.attach(home).store
    for name, value in store.model_dump(include={"endpoint_url", "access_key_id", "region"}).items():
        env[f"DERMBATCH_STORE__{name.upper()}"] = value
    env["DERMBATCH_STORE__SECRET_ACCESS_KEY"] = store.secret_access_key.get_secret_value()
    straight = dermbatch("fetch", "rest", "--out", tmp_path / "straight", "--home", tmp_path / "nowhere", env=env)
    assert straight.code == 0, straight.err
    assert dermbatch("down", "--home", home).code == 0
    ended = dermbatch("fetch", "rest", "--out", tmp_path / "rested", "--home", home)
    assert ended.code == 0, ended.err
    assert len(results(tmp_path / "rested")) == len(list(samples.iterdir()))
    files = [
        {str(path.relative_to(folder)) for path in folder.rglob("*")}
        for folder in (tmp_path / "straight", tmp_path / "rested")
    ]
    assert files[0] == files[1]
    verified = dermbatch("verify", "rest", "--home", home)
    assert verified.code == 0, verified.err
    assert "0 bad" in verified.out
    assert [
        process for process in psutil.process_iter(["cmdline"]) if str(home) in str(process.info["cmdline"])
    ] == []
