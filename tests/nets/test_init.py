"""Training starts from given weights, those of a checkpoint or of a served ONNX file; others are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dermbatch.errors import UsageError
from dermbatch.models.repository import default_model_repository
from dermbatch.phantoms.phantom import phantom
from dermbatch.stages import Stage
from lesionnets.checkpoint import load, save
from lesionnets.evaluation.models.predictors import load_model
from lesionnets.initial import begin_from
from lesionnets.nets.classify.lite import LiteClassifier
from lesionnets.nets.enhance.espcn import Espcn
from lesionnets.nets.enhance.plain import PlainEnhancer
from lesionnets.nets.purify.purifier import Purifier
from lesionnets.nets.segment.unet_lite import UNetLite
from lesionnets.recipes.enhance.enhance_espcn import enhance
from lesionnets.recipes.purify.purify_unet import purify
from lesionnets.training import RecipeOptions
from tests.nets.calling import call
from tests.nets.lively import lively

SHIPPED = default_model_repository()


def unseen(_: object) -> None:
    pytest.fail("there is no batch norm to be measured")


def test_a_served_classifier_is_what_training_begins_from() -> None:
    model, other = LiteClassifier(), LiteClassifier()
    begin_from(model, SHIPPED / "classify_lite", unseen)
    begin_from(other, SHIPPED / "classify_lite" / "1" / "model.onnx", unseen)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    assert float(model.temperature) == 1
    assert all(value.dtype == torch.float32 for value in model.parameters())


def test_folded_batch_norms_are_unfolded_by_what_they_are_given() -> None:
    seen = 0.5 + 0.2 * torch.randn(4, 3, 64, 64, generator=torch.manual_seed(0))
    plain, measured = UNetLite().eval(), UNetLite()
    begin_from(plain, SHIPPED / "segment_lite", lambda _: None)
    begin_from(measured, SHIPPED / "segment_lite", lambda model: model(seen))
    with torch.no_grad():
        served = plain(seen)
        assert torch.allclose(measured.eval()(seen), served, atol=1e-3 * float(served.abs().max()))
        plain.dropout.p = measured.dropout.p = 0
        apart = [float((model.train()(seen) - served).abs().mean()) for model in (plain, measured)]
    assert apart[1] < 0.05 * apart[0]  # in training it gives what is served, and without measuring it does not
    assert float(measured.bias) == 0


def test_a_served_purifier_is_what_training_begins_from() -> None:
    image = phantom(5, height=384, width=512, occlusions=("hair",)).image
    model = Purifier()
    values = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    begin_from(model, SHIPPED / "purify_unet", lambda network: network(values))
    served = load_model(SHIPPED / "purify_unet" / "1" / "model.onnx", Stage.PURIFY)(IMAGE=image)["PURIFIED"]
    assert (served != image).any(axis=2).mean() > 0.01
    apart = (np.abs(served.astype(int) - purify(model.eval(), image)) > 2).any(axis=2)
    assert apart.mean() < 0.001  # two libraries round differently at a threshold


def test_a_served_enhancer_is_what_training_begins_from() -> None:
    image = phantom(5, height=48, width=64).image
    model = Espcn(32, 3)
    begin_from(model, SHIPPED / "enhance_espcn", lambda network: network)
    served = load_model(SHIPPED / "enhance_espcn" / "1" / "model.onnx", Stage.ENHANCE)(IMAGE=image)["ENHANCED"]
    assert np.abs(served.astype(int) - enhance(model.eval(), image)).max() <= 1


def test_a_narrower_purifier_begins_with_the_strongest_channels_of_a_wider_one(tmp_path: Path) -> None:
    wide, narrow = lively(Purifier((8, 6))), Purifier((4, 6)).eval()
    torch.nn.init.normal_(wide.head.weight)
    with torch.no_grad():
        # Nothing comes of every other channel: without them the network gives what it gave.
        for block in (wide.stem, wide.down[0], wide.merge[0]):
            block[1].weight[::2] = block[1].bias[::2] = 0
        wide.up[0].weight[:, ::2] = wide.up[0].bias[::2] = 0
    path = tmp_path / "best.pt"
    save(path, recipe="purify_x", network="purifier.Purifier", hyper={}, state=wide.state_dict(), figures={})
    begin_from(narrow, path, unseen)
    seen = torch.rand(1, 3, 16, 24, generator=torch.manual_seed(0))
    with torch.no_grad():
        for had, got in zip(wide(seen), narrow(seen), strict=True):
            assert torch.allclose(had, got, atol=1e-4)
    with pytest.raises(UsageError, match=r"widths \[16, 6\] cannot start from one of \[8, 6\]"):
        begin_from(Purifier((16, 6)), path, unseen)


def test_branches_that_were_merged_are_refused() -> None:
    with pytest.raises(UsageError, match="branches merged; start from the checkpoint"):
        begin_from(PlainEnhancer(4, 1), SHIPPED / "enhance_espcn", unseen)


def test_weights_of_another_network_and_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"does not have the weights of this network: .* are missing or of another size"
    ):
        begin_from(UNetLite(), SHIPPED / "classify_lite", unseen)
    with pytest.raises(UsageError, match=r"there is no checkpoint .*best\.pt"):
        begin_from(UNetLite(), tmp_path, unseen)
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"\x08\xff")
    for path in (broken, tmp_path / "none.onnx"):
        with pytest.raises(UsageError, match="cannot be read as an ONNX file"):
            begin_from(UNetLite(), path, unseen)


def test_a_training_begins_from_them(
    isic_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", "classify_lite", "--data", isic_folder, "--smoke", "--out")
    assert call(monkeypatch, capsys, *words, tmp_path / "first", "--init", SHIPPED / "classify_lite")[0] == 0
    begun, trained = LiteClassifier(), load(tmp_path / "first" / "best.pt").state
    begin_from(begun, SHIPPED / "classify_lite", unseen)
    for name, value in begun.state_dict().items():  # an epoch of one step moves weights a little
        assert torch.allclose(value, trained[name], atol=0.01), name
    assert call(monkeypatch, capsys, *words, tmp_path / "second", "--init", tmp_path / "first")[0] == 0
    assert load(tmp_path / "second" / "best.pt").recipe == "classify_lite"


def test_recipes_of_several_networks_refuse_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, told = call(monkeypatch, capsys, "train", "mb_dcnn", "--init", tmp_path)
    assert (code, "trains several networks" in told) == (2, True)
    assert RecipeOptions(tmp_path, init=tmp_path).limits(1, 1)["init"] == tmp_path
