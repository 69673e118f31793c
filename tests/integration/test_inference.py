"""The Triton client against a real Triton."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from prometheus_client import REGISTRY

from dermbatch.errors import InferenceUnavailable, ModelContractError
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import TritonSettings
from dermbatch.stages import Stage
from orchestrator.stack.ports import free_ports
from tests.waiting import allowed
from workers.triton.client import TritonClient


def grey(level, height=6, width=8):
    return np.full((height, width, 3), level, np.uint8)


def test_the_newest_version_is_taken_where_none_is_pinned(client, digested_repository):
    newest = client.model(Stage.SEGMENT, ModelChoice(name="segment_tiny"))
    pinned = client.model(Stage.SEGMENT, ModelChoice(name="segment_tiny", version="1"))
    assert (newest.version, pinned.version) == ("2", "1")
    file = digested_repository / "segment_tiny" / "2" / "model.onnx"
    assert newest.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    for model, expected in ((newest, 60), (pinned, 120)):
        answer = client.infer(model, {"IMAGE": grey(120)}, ("LESION",))
        assert answer["LESION"].shape == (6, 8)
        assert (answer["LESION"] == expected).all()


def test_all_four_contracts_can_be_served(client):
    for stage, name in zip(Stage, ("purify_tiny", "segment_tiny", "enhance_tiny", "classify_tiny"), strict=True):
        assert client.model(stage, ModelChoice(name=name)).max_batch == 8
    model = client.model(Stage.CLASSIFY, ModelChoice(name="classify_tiny"))
    answer = client.infer(
        model,
        {"IMAGE": grey(9), "LESION": np.full((6, 8), 255, np.uint8)},
        ("PROBABILITIES", "EMBEDDING", "SALIENCY"),
    )
    assert answer["PROBABILITIES"].tolist() == [0.5, 0.25, 0.25]
    assert answer["EMBEDDING"].dtype == np.float32
    assert answer["SALIENCY"].shape == (6, 8)


def test_many_items_come_back_in_order(client):
    model = client.model(Stage.ENHANCE, ModelChoice(name="enhance_tiny"))
    items = [{"IMAGE": grey(level, 5, 4)} for level in range(100)]
    answers = client.infer_many(model, items, ("ENHANCED",))
    assert [int(answer["ENHANCED"][0, 0, 0]) for answer in answers] == list(range(100))
    assert {answer["ENHANCED"].shape for answer in answers} == {(20, 16, 3)}
    assert client.infer_many(model, [], ("ENHANCED",)) == []


def test_threads_get_their_own_answers(client):
    model = client.model(Stage.SEGMENT, ModelChoice(name="segment_tiny", version="1"))

    def ask(level):
        return int(client.infer(model, {"IMAGE": grey(level)}, ("LESION",))["LESION"][0, 0])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(200))) == list(range(200))


def test_what_is_served_no_more_is_asked_for_again(client):
    model = client.model(Stage.SEGMENT, ModelChoice(name="segment_tiny"))
    gone = type(model)(model.name, "9", "", model.max_batch, model.shapes)
    # A version that was there a moment ago: another try will find its successor.
    with pytest.raises(InferenceUnavailable):
        client.infer(gone, {"IMAGE": grey(1)}, ("LESION",))


@pytest.mark.parametrize(
    ("stage", "choice", "sentence"),
    [
        (Stage.SEGMENT, ModelChoice(name="nobody"), "serves no model nobody"),
        (
            Stage.SEGMENT,
            ModelChoice(name="segment_tiny", version="7"),
            "no version 7 of .*, but 1, 2",
        ),
        (Stage.CLASSIFY, ModelChoice(name="segment_tiny"), "cannot serve classify: it has no tensor LESION|PROB"),
        (Stage.SEGMENT, ModelChoice(name="bare"), "has no tensor IMAGE"),
        (Stage.SEGMENT, ModelChoice(name="ensemble_tiny"), "states no file digest"),
    ],
)
def test_a_model_that_cannot_serve_is_a_permanent_failure(client, stage, choice, sentence):
    with pytest.raises(ModelContractError, match=sentence):
        client.model(stage, choice)


def test_a_request_that_triton_refuses_is_a_permanent_failure(client):
    model = client.model(Stage.SEGMENT, ModelChoice(name="segment_tiny"))
    with pytest.raises(ModelContractError, match="Triton refuses the request to model segment_tiny"):
        client.infer(model, {"IMAGE": np.zeros((4, 4, 5), np.uint8)}, ("LESION",))
    with pytest.raises(ModelContractError):
        client.infer(model, {"PICTURE": grey(1)}, ("LESION",))


def test_one_broken_item_ends_the_others_too(client):
    model = client.model(Stage.SEGMENT, ModelChoice(name="picky"))
    with pytest.raises(InferenceUnavailable):
        client.infer_many(model, [{"IMAGE": grey(level)} for level in (*range(90), 250)], ("LESION",))
    assert client.infer(model, {"IMAGE": grey(50)}, ("LESION",))["LESION"][0, 0] == 50


def test_a_late_answer_is_given_up(digested_triton):
    client = TritonClient(digested_triton.settings)
    model = client.model(Stage.ENHANCE, ModelChoice(name="enhance_tiny"))
    hasty = TritonClient(TritonSettings(url=digested_triton.settings.url, timeout=0.05))
    started = time.monotonic()
    with pytest.raises(InferenceUnavailable, match=r"did not answer in 0\.05 s and was cancelled"):
        hasty.infer(model, {"IMAGE": grey(1, 3000, 3000)}, ("ENHANCED",))
    assert time.monotonic() - started < allowed(3)
    assert client.infer(model, {"IMAGE": grey(7)}, ("ENHANCED",))["ENHANCED"][0, 0, 0] == 7
    for one in (client, hasty):
        one.close()


def test_nobody_there_is_a_transient_failure():
    nobody = TritonClient(TritonSettings(url=f"127.0.0.1:{free_ports(1)[0]}"))
    with pytest.raises(InferenceUnavailable, match="cannot serve model segment_tiny"):
        nobody.model(Stage.SEGMENT, ModelChoice(name="segment_tiny"))
    nobody.close()


def test_requests_and_errors_are_counted(client):
    def value(name, **labels):
        return REGISTRY.get_sample_value(name, labels) or 0

    labels = {"model": "segment_tiny", "version": "2"}
    before = value("dermbatch_triton_request_seconds_count", **labels)
    failed = value("dermbatch_triton_errors_total", model="segment_tiny", reason="invalid_argument")
    model = client.model(Stage.SEGMENT, ModelChoice(name="segment_tiny"))
    client.infer(model, {"IMAGE": grey(1)}, ("LESION",))
    with pytest.raises(ModelContractError):
        client.infer(model, {"IMAGE": np.zeros((4, 4, 5), np.uint8)}, ("LESION",))
    assert value("dermbatch_triton_request_seconds_count", **labels) == before + 1
    assert value("dermbatch_triton_errors_total", model="segment_tiny", reason="invalid_argument") == failed + 1
