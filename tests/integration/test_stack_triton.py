"""Triton with our ONNX backend: what a model repository may expect of it."""

import os
import shutil
import sysconfig
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from dermbatch.errors import StackError
from dermbatch.models.triton import Triton
from dermbatch.settings import TritonSettings
from orchestrator.stack.environment import base_environment
from orchestrator.stack.ports import free_ports
from orchestrator.stack.servers import triton as stack_triton
from orchestrator.stack.servers.triton import TritonPorts, triton_part
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def client(triton_settings):
    with closing(Triton(triton_settings)) as triton:
        yield triton._client


def infer(client, model, outputs, version="", **arrays):
    inputs = []
    for name, array in arrays.items():
        tensor = grpcclient.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    wanted = [grpcclient.InferRequestedOutput(name) for name in outputs] if outputs else None
    return client.infer(model, inputs, model_version=version, outputs=wanted)


def image(seed, height=8, width=12, rows=1, most=256):
    return np.random.default_rng(seed).integers(0, most, (rows, height, width, 3), dtype=np.uint8)


def grey(pixels):
    return pixels.astype(np.float32).mean(-1).astype(np.uint8)


def test_many_callers_each_get_their_own_answer_whatever_the_shape(client):
    images = [image(n, height=8 + n % 3) for n in range(60)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda pixels: infer(client, "segment_tiny", [], "1", IMAGE=pixels), images))
    for pixels, answer in zip(images, answers, strict=True):
        np.testing.assert_array_equal(answer.as_numpy("LESION"), grey(pixels))


def test_rows_of_one_request_are_the_same_as_requests_of_one_row(client):
    rows = image(1, rows=5)
    together = infer(client, "purify_tiny", [], IMAGE=rows)
    for n in range(5):
        alone = infer(client, "purify_tiny", [], IMAGE=rows[n : n + 1])
        for name in ("PURIFIED", "OCCLUSION"):
            np.testing.assert_array_equal(together.as_numpy(name)[n], alone.as_numpy(name)[0])


def test_stage_contracts_of_the_tiny_models(client):
    pixels = image(2)
    purified = infer(client, "purify_tiny", [], IMAGE=pixels).as_numpy("PURIFIED")
    np.testing.assert_array_equal(purified, 255 - pixels)
    enhanced = infer(client, "enhance_tiny", [], IMAGE=pixels).as_numpy("ENHANCED")
    np.testing.assert_array_equal(enhanced, pixels.repeat(4, axis=1).repeat(4, axis=2))
    classified = infer(client, "classify_tiny", [], IMAGE=pixels, LESION=grey(pixels))
    np.testing.assert_allclose(classified.as_numpy("PROBABILITIES"), [[0.5, 0.25, 0.25]])


def test_only_the_outputs_asked_for_are_answered(client):
    answer = infer(client, "purify_tiny", ["OCCLUSION"], IMAGE=image(3))
    assert [output.name for output in answer.get_response().outputs] == ["OCCLUSION"]


def test_a_failing_request_harms_only_itself(client):
    images = [image(n, most=150) for n in range(40)]
    for bad in images[::5]:
        bad[0, 0, 0, 0] = 255

    def outcome(pixels):
        try:
            return infer(client, "picky", [], IMAGE=pixels).as_numpy("LESION")
        except InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(10) as pool:
        outcomes = list(pool.map(outcome, images))
    for n, (pixels, found) in enumerate(zip(images, outcomes, strict=True)):
        if n % 5 == 0:
            assert "out of" in found
            assert "Gather" in found
        else:
            np.testing.assert_array_equal(found, grey(pixels))


def test_every_version_is_served_and_the_newest_by_default(client):
    pixels = image(4)
    first = infer(client, "segment_tiny", [], "1", IMAGE=pixels).as_numpy("LESION")
    second = infer(client, "segment_tiny", [], "2", IMAGE=pixels).as_numpy("LESION")
    np.testing.assert_array_equal(second, (pixels.astype(np.float32).mean(-1) / 2).astype(np.uint8))
    np.testing.assert_array_equal(infer(client, "segment_tiny", [], IMAGE=pixels).as_numpy("LESION"), second)
    assert (first != second).any()


def test_an_ensemble_runs_its_models_in_turn(client):
    pixels = image(5)
    np.testing.assert_array_equal(
        infer(client, "ensemble_tiny", [], IMAGE=pixels).as_numpy("LESION"), grey(255 - pixels)
    )


def test_a_configuration_without_tensors_is_completed_from_the_model(client):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(infer(client, "bare", [], VALUES=values).as_numpy("DOUBLED"), values * 2)
    config = client.get_model_config("bare", as_json=True)["config"]
    assert [(tensor["name"], tensor["data_type"]) for tensor in config["input"]] == [("VALUES", "TYPE_FP32")]


def test_a_request_whose_time_is_over_does_not_block_the_next(client):
    with pytest.raises(InferenceServerException, match="Deadline"):
        client.infer("segment_tiny", [_input(image(6, 1500, 1500))], client_timeout=0.001)
    assert infer(client, "segment_tiny", [], IMAGE=image(7)).as_numpy("LESION").shape == (1, 8, 12)


def _input(pixels):
    tensor = grpcclient.InferInput("IMAGE", pixels.shape, "UINT8")
    tensor.set_data_from_numpy(pixels)
    return tensor


def test_metrics_count_what_was_inferred(client, triton):
    def counted():
        with urllib.request.urlopen(f"http://127.0.0.1:{triton.ports.metrics}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        wanted = 'nv_inference_request_success{model="enhance_tiny",version="1"} '
        return next(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))

    before = counted()
    for n in range(3):
        infer(client, "enhance_tiny", [], IMAGE=image(n))
    wait_for(lambda: counted() >= before + 3, 5)  # Triton counts a request a moment after it was answered
    assert counted() == before + 3


def make_part(tmp_path, environ, repository):
    ports = TritonPorts(*free_ports(3))
    log = tmp_path / "logs" / "triton.log"
    part, _ = triton_part(
        tmp_path / "triton", log, ports, base_environment(environ), triton=TritonSettings(), repository=repository
    )
    return part


def test_a_broken_model_is_reported_with_its_name_and_the_log(tmp_path, tiny_repository):
    repository = tmp_path / "repository"
    shutil.copytree(tiny_repository / "segment_tiny", repository / "segment_tiny")
    (repository / "segment_tiny" / "2" / "model.onnx").write_bytes(b"not a model")
    part = make_part(tmp_path, os.environ, repository)
    part.start()
    with pytest.raises(StackError) as caught:
        part.wait()
    part.stop()
    assert str(part.log) in str(caught.value)
    assert "segment_tiny" in str(caught.value)
    assert "UNAVAILABLE" in str(caught.value)


def test_a_missing_repository_is_reported_before_anything_starts(tmp_path):
    with pytest.raises(StackError, match="is not a folder"):
        make_part(tmp_path, {}, tmp_path / "nowhere")


def test_a_python_without_shared_library_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _name: str(tmp_path))
    monkeypatch.setattr(stack_triton.sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(stack_triton.ctypes, "CDLL", _not_found)
    with pytest.raises(StackError, match=r"libpython3\.\d+\.so\.1\.0.*enable-shared"):
        make_part(tmp_path, {}, tmp_path)


def _not_found(name):
    raise OSError(name)


def test_nothing_stays_in_shared_memory_after_a_kill(tmp_path, tiny_repository):
    repository = tmp_path / "repository"
    shutil.copytree(tiny_repository / "segment_tiny", repository / "segment_tiny")
    part = make_part(tmp_path, os.environ, repository)
    part.start()
    part.wait()
    pattern = Path(part.leftovers).name
    assert list(Path("/dev/shm").glob(pattern))
    psutil.Process(part.program_pid).kill()
    part.stop()
    assert not list(Path("/dev/shm").glob(pattern))
