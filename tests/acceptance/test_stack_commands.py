"""``up``, ``submit``, ``status``, ``fetch`` and ``down``, two stacks side by side."""

import shutil
import urllib.request

import boto3
import psutil
import pytest
from commands import alive, dermbatch, failures, results, wait_for

from orchestrator.stack import host


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """Two stacks that run side by side."""
    homes = [tmp_path_factory.mktemp("stack") / name for name in ("one", "two")]
    for home in homes:
        ended = dermbatch("up", "--home", home, "--workers", "2")
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
    assert ended.code == 1
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


def test_objects_are_processed_where_they_lie_also_out_of_archives(homes, samples, tmp_path):
    home = homes[1]
    settings = host.attach(home)
    client = boto3.client(
        "s3",
        endpoint_url=settings.store.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
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
        "DERMBATCH_STORE__ACCESS_KEY_ID": "x",
        "DERMBATCH_STORE__SECRET_ACCESS_KEY": "x",
    }
    inputs = ("s3://archive/study 1/a b.jpg", "s3://archive/nothing/", "s3://missing/x")
    ended = dermbatch("run", *inputs, "--out", tmp_path / "run", env=elsewhere)
    assert ended.code == 1, ended.err
    assert list(results(tmp_path / "run")) == [inputs[0]]
    assert {name: failure.reason for name, failure in failures(tmp_path / "run").items()} == {
        inputs[1]: "empty_prefix",
        inputs[2]: "bucket_not_found",
    }


def test_commands_without_a_stack_or_a_batch_say_so(homes, samples, tmp_path):
    for args in (("submit", samples), ("status",), ("fetch", "x", "--out", tmp_path / "o"), ("down",)):
        ended = dermbatch(*args, "--home", tmp_path / "nowhere")
        assert ended.code == 1
        assert "no stack is running" in ended.err
    for args in (("status", "nope"), ("fetch", "nope", "--out", tmp_path / "o")):
        ended = dermbatch(*args, "--home", homes[0])
        assert ended.code == 2
        assert "there is no batch" in ended.err
