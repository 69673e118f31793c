"""A classifier that describes places, behind the stage function: in the worker's process and by a real Triton."""

import numpy as np
import pytest
import torch

from dermbatch.phantoms.phantom import phantom
from dermbatch.records.asked import ModelChoice
from dermbatch.stages import Stage
from lesionnets import checkpoint
from lesionnets.export import export
from lesionnets.nets.classify.lite_patterns import LitePatterns
from workers.inference.onnx import OnnxRuntime
from workers.stages.classify import ClassifyParameters, classify
from workers.triton.client import TritonClient


def test_patterns_come_from_triton_as_from_the_workers_process(tmp_path, start_triton):
    torch.manual_seed(4)
    hyper = {"size": 64, "shallow": 6, "descriptors": 8}
    state, name = LitePatterns(**hyper).state_dict(), checkpoint.name_of(LitePatterns)
    path = tmp_path / "best.pt"
    checkpoint.save(path, recipe="classify_patterns", network=name, hyper=hyper, state=state, figures={})
    export(path, tmp_path / "repository")
    client = TritonClient(start_triton(tmp_path / "repository").settings)
    found = []
    for engine in (OnnxRuntime(tmp_path / "repository"), client):
        model = engine.model(Stage.CLASSIFY, ModelChoice(name="classify_patterns"))
        for height, width in (
            (30, 40),
            (300, 400),
        ):  # maps of other sizes than the picture's are not shared memory's
            drawn = phantom(7, height=height, width=width)
            mask = 255 * drawn.lesion.astype(np.uint8)
            found.append(classify(drawn.image, mask, engine, model, ClassifyParameters.of(model)).patterns)
    client.close()
    for one, other in zip(found[:2], found[2:], strict=True):
        assert one.shape == (24, 24, 14)
        np.testing.assert_array_equal(one, other)
        assert np.linalg.norm(one.astype(np.float32), axis=2).sum() == pytest.approx(1, abs=0.01)
