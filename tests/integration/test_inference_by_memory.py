"""Tensors by shared memory against a real Triton: the same answers, and none of what can go wrong is noticed."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import structlog

from dermbatch.errors import InferenceUnavailable, ModelContractError
from dermbatch.models.triton import Triton
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import TritonSettings
from dermbatch.stages import Stage
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.servers.triton import TritonPorts, triton_part
from tests.waiting import wait_for
from workers.triton import sharedmemory
from workers.triton.client import TritonClient

OUTPUTS = {
    Stage.PURIFY: ("PURIFIED", "OCCLUSION"),
    Stage.SEGMENT: ("LESION",),
    Stage.ENHANCE: ("ENHANCED",),
    Stage.CLASSIFY: ("PROBABILITIES", "EMBEDDING", "SALIENCY"),
}
SHM = Path("/dev/shm")


@pytest.fixture
def connect(digested_triton):
    clients = []

    def connect(**changed):
        clients.append(TritonClient(digested_triton.settings.model_copy(update=changed)))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def triton(digested_triton):
    with closing(Triton(digested_triton.settings)) as triton:
        yield triton._client


@pytest.fixture
def soon(monkeypatch):
    """No pause before the next arena."""
    monkeypatch.setattr(sharedmemory, "_LOST_PAUSE", 0.0)


@pytest.fixture
def slices(monkeypatch):
    """Every slice that is taken, or None where there was no room."""
    taken = []
    take = sharedmemory.SharedMemory.take

    def recorded(self, size):
        taken.append(take(self, size))
        return taken[-1]

    monkeypatch.setattr(sharedmemory.SharedMemory, "take", recorded)
    return taken


def picture(seed, height=7, width=9):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def item(stage, seed, *size):
    image = picture(seed, *size)
    return {"IMAGE": image} if stage is not Stage.CLASSIFY else {"IMAGE": image, "LESION": image[:, :, 1]}


def tiny(client, stage):
    return client.model(stage, ModelChoice(name=f"{stage}_tiny"))


def regions(triton):
    return set(triton.get_system_shared_memory_status().regions)


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize(("count", "size"), [(1, (1, 1)), (3, (7, 9)), (21, (33, 17)), (9, (130, 61))])
def test_answers_are_those_that_come_by_message(connect, slices, stage, count, size):
    shared, plain = connect(), connect(shared_memory_bytes=0)
    model = tiny(plain, stage)
    items = [item(stage, seed, *size) for seed in range(count)]
    expected = plain.infer_many(model, items, OUTPUTS[stage])
    assert set(slices) == {None}
    slices.clear()
    got = shared.infer_many(model, items, OUTPUTS[stage])
    assert slices
    assert None not in slices
    for one, other in zip(got, expected, strict=True):
        for name in OUTPUTS[stage]:
            assert one[name].dtype == other[name].dtype
            assert not one[name].flags.writeable
            np.testing.assert_array_equal(one[name], other[name])


def test_threads_keep_their_own_data_also_where_there_is_not_room_for_all(connect, slices):
    client = connect(shared_memory_bytes=300_000)
    model = tiny(client, Stage.ENHANCE)

    def ask(seed):
        size = 20 + seed % 13, 40 - seed % 7
        images = [picture(100 * seed + n, *size) for n in range(10)]
        answers = client.infer_many(model, [{"IMAGE": image} for image in images], ("ENHANCED",))
        return all(
            np.array_equal(answer["ENHANCED"], image.repeat(4, 0).repeat(4, 1))
            for answer, image in zip(answers, images, strict=True)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(60)))
    assert None in slices
    assert len({slice_.offset for slice_ in slices if slice_ is not None}) > 1
    (arena,) = {slice_.arena for slice_ in slices if slice_ is not None}
    assert arena.take(300_000 // 4096 * 4096) is not None  # all are back


def test_a_request_larger_than_all_goes_by_message(connect, slices, triton):
    client = connect(shared_memory_bytes=8192)
    before = regions(triton)
    answer = client.infer(tiny(client, Stage.SEGMENT), {"IMAGE": picture(1, 80, 80)}, ("LESION",))
    assert answer["LESION"].shape == (80, 80)
    assert slices == [None]
    assert regions(triton) == before


def test_it_has_no_name_and_ends_with_the_client(digested_triton, connect, triton):
    client = connect()
    before = regions(triton)
    client.infer(tiny(client, Stage.SEGMENT), {"IMAGE": picture(1)}, ("LESION",))
    (own,) = regions(triton) - before
    assert own.startswith(digested_triton.settings.shared_memory_prefix)
    assert not (SHM / own).exists()
    client.close()
    assert own not in regions(triton)


def test_an_output_of_another_size_than_promised_comes_by_message(connect, slices):
    client = connect()
    model = tiny(client, Stage.ENHANCE)
    larger = replace(model, parameters={**model.parameters, "scale": "2"})
    image = picture(3)
    for _ in range(2):
        answer = client.infer(larger, {"IMAGE": image}, ("ENHANCED",))
        np.testing.assert_array_equal(answer["ENHANCED"], image.repeat(4, 0).repeat(4, 1))
    assert len(slices) == 1  # the second time it is known
    smaller = replace(model, version="1", parameters={**model.parameters, "scale": "8"}, name="enhance_tiny")
    answer = connect().infer(smaller, {"IMAGE": image}, ("ENHANCED",))
    np.testing.assert_array_equal(answer["ENHANCED"], image.repeat(4, 0).repeat(4, 1))


def test_refused_requests_keep_the_arena(connect, slices):
    client = connect()
    model = tiny(client, Stage.SEGMENT)
    for wrong in ({"IMAGE": np.zeros((4, 4, 5), np.uint8)}, {"PICTURE": picture(1)}):
        with pytest.raises(ModelContractError):
            client.infer(model, wrong, ("LESION",))
    client.infer(model, {"IMAGE": picture(1)}, ("LESION",))
    assert len({slice_.arena for slice_ in slices}) == 1
    assert len({slice_.offset for slice_ in slices}) == 1


def test_items_of_unequal_shapes_are_answered_in_their_order(connect, slices):
    client = connect()
    items = [{"IMAGE": picture(seed, *sides)} for seed, sides in enumerate(((4, 4), (6, 5), (6, 5), (4, 4)))]
    answers = client.infer_many(tiny(client, Stage.PURIFY), items, ("PURIFIED",))
    for answer, sent in zip(answers, items, strict=True):
        np.testing.assert_array_equal(answer["PURIFIED"], 255 - sent["IMAGE"])
    assert len(slices) == 3  # neighbours of equal shapes go together


def test_what_triton_has_forgotten_is_made_again(connect, triton, slices, soon):
    client = connect()
    model = tiny(client, Stage.PURIFY)
    items = [{"IMAGE": picture(seed)} for seed in range(40)]
    for _ in range(3):
        answers = client.infer_many(model, items, ("PURIFIED",))
        for answer, sent in zip(answers, items, strict=True):
            np.testing.assert_array_equal(answer["PURIFIED"], 255 - sent["IMAGE"])
        triton.unregister_system_shared_memory(slices[-1].arena.name)
    assert len({slice_.arena for slice_ in slices if slice_ is not None}) >= 3


def test_a_late_answer_cannot_reach_another_request(connect, triton, slices, soon, monkeypatch):
    client = connect()
    model = tiny(client, Stage.ENHANCE)
    client.infer(model, {"IMAGE": picture(1)}, ("ENHANCED",))
    first = slices[-1].arena
    monkeypatch.setattr(client, "_timeout", 0.03)
    with pytest.raises(InferenceUnavailable, match="did not answer"):
        client.infer(model, {"IMAGE": picture(1, 1000, 1000)}, ("ENHANCED",))
    assert slices[-1].arena is first
    monkeypatch.setattr(client, "_timeout", 60)
    client.infer(model, {"IMAGE": picture(1)}, ("ENHANCED",))
    assert slices[-1] is None or first.name not in regions(triton)  # never two
    patient = connect()  # the model is at work on what nobody waits for any more
    for seed in range(20):
        image = picture(seed)
        answer = patient.infer(model, {"IMAGE": image}, ("ENHANCED",))
        np.testing.assert_array_equal(answer["ENHANCED"], image.repeat(4, 0).repeat(4, 1))
    slices.clear()
    wait_for(lambda: client.infer(model, {"IMAGE": picture(1)}, ("ENHANCED",)) and slices[-1] is not None)
    assert first not in {slice_.arena for slice_ in slices if slice_ is not None}
    assert first.name not in regions(triton)


def test_where_triton_cannot_open_it_all_goes_by_message(connect, tmp_path, monkeypatch, slices, triton):
    monkeypatch.setattr(sharedmemory, "_FOLDER", tmp_path)  # as in another container
    client = connect(shared_memory_bytes=1 << 20)
    model = tiny(client, Stage.SEGMENT)
    with structlog.testing.capture_logs() as logs:
        for seed in range(3):
            client.infer(model, {"IMAGE": picture(seed)}, ("LESION",))
    assert slices == [None] * 3
    assert [(line["log_level"], "Unable to open" in line["why"]) for line in logs] == [("info", True)]
    assert not list(tmp_path.iterdir())


def test_where_there_is_too_little_room_all_goes_by_message(connect, slices, triton):
    client = connect(shared_memory_bytes=psutil.disk_usage(str(SHM)).free // 2)
    before = regions(triton)
    client.infer(tiny(client, Stage.SEGMENT), {"IMAGE": picture(1)}, ("LESION",))
    assert slices == [None]
    assert regions(triton) == before


def test_memory_that_is_not_to_be_had_after_all_is_given_back(connect, slices, monkeypatch, triton):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    client = connect()
    client.infer(tiny(client, Stage.SEGMENT), {"IMAGE": picture(1)}, ("LESION",))
    assert slices == [None]
    client.close()
    assert not {name for name in regions(triton) if f"-{os.getpid()}-" in name}


def test_an_older_triton_is_left_alone(connect, slices, monkeypatch):
    monkeypatch.setattr(sharedmemory, "_LEAST_VERSION", (999, 0))
    client = connect()
    client.infer(tiny(client, Stage.SEGMENT), {"IMAGE": picture(1)}, ("LESION",))
    assert slices == [None]


CHILD = """
import sys, time, numpy as np
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import TritonSettings
from dermbatch.stages import Stage
from workers.triton.client import TritonClient
client = TritonClient(TritonSettings.model_validate_json(sys.argv[1]))
model = client.model(Stage.SEGMENT, ModelChoice(name="segment_tiny"))
client.infer(model, {"IMAGE": np.zeros((5, 5, 3), np.uint8)}, ("LESION",))
print(client._shared._arena.name, flush=True)
time.sleep(60)
"""


def test_nothing_is_left_of_a_killed_process(digested_triton, connect, triton):
    key = digested_triton.settings.key.get_secret_value()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps({**digested_triton.settings.model_dump(), "key": key})],
        stdout=subprocess.PIPE,
        text=True,
        env=base_environment(os.environ),
    )
    with child:
        name = child.stdout.readline().strip()
        assert name in regions(triton)
        (SHM / name).touch()  # as where it is killed in the moment in which its memory has a name
        alive = connect()
        alive.infer(tiny(alive, Stage.SEGMENT), {"IMAGE": picture(1)}, ("LESION",))
        assert name in regions(triton)
        child.send_signal(signal.SIGKILL)
    late = connect()
    late.infer(tiny(late, Stage.SEGMENT), {"IMAGE": picture(1)}, ("LESION",))
    assert name not in regions(triton)
    assert not (SHM / name).exists()
    assert alive._shared._arena.name in regions(triton)


def test_a_restarted_triton_is_given_a_new_one_and_its_end_leaves_nothing(
    tmp_path, digested_repository, slices, soon
):
    (tmp_path / "models").mkdir()
    shutil.copytree(digested_repository / "segment_tiny", tmp_path / "models" / "segment_tiny")
    part, settings = triton_part(
        tmp_path / "triton",
        tmp_path / "triton.log",
        TritonPorts(*free_ports(3)),
        base_environment(os.environ),
        triton=TritonSettings(),
        repository=tmp_path / "models",
    )
    client = TritonClient(settings)
    try:
        for _ in range(2):
            part.start()
            part.wait()
            wait_for(lambda: _answers(client))
            wait_for(lambda: _answers(client) and slices[-1] is not None)
            left = SHM / f"{settings.shared_memory_prefix}arena-1-1-1-x"
            left.touch()
            psutil.Process(part.program_pid).kill()
            part.stop()
            assert not left.exists()
    finally:
        client.close()
        part.stop()
    assert len({re.sub(r".*-", "", slice_.arena.name) for slice_ in slices if slice_ is not None}) == 2
    assert not list(SHM.glob(f"{settings.shared_memory_prefix}*"))


def _answers(client):
    """Whether it answers; if so, rightly."""
    try:
        answer = client.infer(
            tiny(client, Stage.SEGMENT), {"IMAGE": np.full((5, 5, 3), 80, np.uint8)}, ("LESION",)
        )
    except InferenceUnavailable:
        return False
    assert (answer["LESION"] == 40).all()
    return True
