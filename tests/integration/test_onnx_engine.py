"""ONNX Runtime in the worker's own process against a real Triton, on the repository of small models."""

import numpy as np
import pytest

from dermbatch.errors import InferenceUnavailable, ModelContractError
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import Engine, Settings
from dermbatch.stages import Stage
from tests.integration.digests import copy_with_digests
from workers.inference.engine import engine_of
from workers.inference.onnx import OnnxRuntime
from workers.triton.client import TritonClient

IMAGE = {"IMAGE": np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)}
TINY = ModelChoice(name="segment_tiny")


@pytest.fixture
def repository(tiny_repository, tmp_path):
    return copy_with_digests(tiny_repository, tmp_path / "models")


@pytest.fixture(scope="module")
def digested(tiny_repository, tmp_path_factory):
    return copy_with_digests(tiny_repository, tmp_path_factory.mktemp("digested") / "models")


def config(repository, old, new, name="segment_tiny"):
    path = repository / name / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_settings_choose_the_engine(tiny_repository):
    assert isinstance(engine_of(Settings())(), TritonClient)
    inference = {"engine": Engine.ONNXRUNTIME, "repository": tiny_repository}
    assert isinstance(engine_of(Settings(inference=inference))(), OnnxRuntime)


@pytest.mark.parametrize("version", [None, "1", "2"])
def test_models_and_answers_are_those_of_triton(start_triton, digested, version):
    triton, own = TritonClient(start_triton(digested).settings), OnnxRuntime(digested)
    choice = ModelChoice(name="segment_tiny", version=version)
    model = own.model(Stage.SEGMENT, choice)
    assert model == triton.model(Stage.SEGMENT, choice)
    items = [IMAGE, {"IMAGE": IMAGE["IMAGE"][::-1].copy()}, {"IMAGE": IMAGE["IMAGE"][:16].copy()}]
    for mine, theirs in zip(
        own.infer_many(model, items, ("LESION",)), triton.infer_many(model, items, ("LESION",)), strict=True
    ):
        np.testing.assert_array_equal(mine["LESION"], theirs["LESION"])
    triton.close()
    own.close()


def test_what_the_repository_lacks_is_refused_by_name(digested):
    own = OnnxRuntime(digested)
    with pytest.raises(ModelContractError, match=f"there is no model unet in {digested}"):
        own.model(Stage.SEGMENT, ModelChoice(name="unet"))
    with pytest.raises(ModelContractError, match="there is no version 9 of model segment_tiny"):
        own.model(Stage.SEGMENT, ModelChoice(name="segment_tiny", version="9"))


def test_a_file_that_is_not_the_one_of_its_digest_is_refused(repository):
    file = repository / "segment_tiny" / "2" / "model.onnx"
    file.write_bytes((repository / "segment_tiny" / "1" / "model.onnx").read_bytes())
    with pytest.raises(ModelContractError, match=r"version 2 has a file whose digest differs.*'sha256\.2'"):
        OnnxRuntime(repository).model(Stage.SEGMENT, TINY)


def test_a_model_of_another_backend_is_left_to_triton(repository):
    config(repository, 'backend: "onnxruntime"', 'platform: "ensemble"')
    with pytest.raises(ModelContractError, match="segment_tiny is for ensemble: use the engine triton"):
        OnnxRuntime(repository).model(Stage.SEGMENT, TINY)


def test_a_configuration_or_a_file_that_cannot_be_read_is_named(repository):
    (repository / "segment_tiny" / "2" / "model.onnx").unlink()
    with pytest.raises(ModelContractError, match=r"segment_tiny/2/model\.onnx cannot be read"):
        OnnxRuntime(repository).model(Stage.SEGMENT, TINY)
    (repository / "segment_tiny" / "config.pbtxt").write_text("name: {")
    with pytest.raises(ModelContractError, match=r"segment_tiny/config\.pbtxt cannot be read"):
        OnnxRuntime(repository).model(Stage.SEGMENT, TINY)


def test_a_request_that_does_not_fit_is_the_models_contract_and_a_failure_is_for_now(digested):
    own = OnnxRuntime(digested)
    model = own.model(Stage.SEGMENT, TINY)
    with pytest.raises(ModelContractError, match="segment_tiny version 2 cannot be asked in this way"):
        own.infer(model, {"IMAGE": IMAGE["IMAGE"].astype(np.float32)}, ("LESION",))

    class Broken:
        def run(self, *_):
            raise MemoryError("no room")

    own._sessions["segment_tiny", "2"] = Broken()
    with pytest.raises(InferenceUnavailable, match="segment_tiny did not run: no room"):
        own.infer(model, IMAGE, ("LESION",))
