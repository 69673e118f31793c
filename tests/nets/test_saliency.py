"""Maps of where a classifier looked, against their definitions and on classifiers whose gaze is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.classify.bilinear_vgg import BilinearVgg
from lesionnets.nets.classify.lite_patterns import LitePatterns
from lesionnets.nets.classify.mobilenet import LesionClassifier
from lesionnets.nets.classify.resnet import ResNet50
from lesionnets.nets.mutual.mb_dcnn import MaskCN
from lesionnets.saliency import visual_backprop


class Gazer(nn.Module):
    """Two stages whose channels are known: it answers to red."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU())
        self.deep = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(2, 2, 1, bias=False), nn.ReLU())
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.shallow[0].weight.copy_(torch.tensor([[1.0, 0, 0], [2.0, 0, 0]]).view(2, 3, 1, 1))
            self.deep[1].weight.copy_(torch.eye(2).view(2, 2, 1, 1))
            self.head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.deep(self.shallow(image)).mean(dim=(2, 3)))
        return logits


def test_visual_backprop_is_the_product_of_the_stages_means() -> None:
    torch.manual_seed(0)
    model, image = Gazer(), torch.rand(2, 3, 16, 16)
    shallow = 1.5 * image[:, :1]
    deep = functional.interpolate(
        functional.avg_pool2d(shallow, 4), size=(16, 16), mode="bilinear", align_corners=False
    )
    expected = shallow * deep
    low, high = expected.amin(dim=(2, 3), keepdim=True), expected.amax(dim=(2, 3), keepdim=True)
    found = visual_backprop(model, [image], [model.shallow, model.deep])
    torch.testing.assert_close(found, (expected - low) / (high - low))


def test_visual_backprop_finds_what_the_classifier_answers_to() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[:, 1:] = 1.0
    image[0, 0, 20:28, 4:12] = 1.0
    model = Gazer()
    found = visual_backprop(model, [image], [model.shallow, model.deep])
    assert found[0, 0, 20:28, 4:12].min() > 0.3
    found[0, 0, 20:28, 4:12] = 0
    assert found.max() == 0


def test_a_flat_picture_gives_no_map_and_no_nan() -> None:
    model = Gazer()
    found = visual_backprop(model, [torch.zeros(1, 3, 16, 16)], [model.shallow, model.deep])
    assert found.eq(0).all()


def test_class_activation_maps_of_a_linear_head_are_those_of_zhou_et_al() -> None:
    torch.manual_seed(1)
    model = ResNet50(width=0.125).eval().requires_grad_(False)
    image = torch.rand(2, 3, 64, 96)
    features = image_features = None

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        nonlocal features
        features = output

    handle = model.stages[-1].register_forward_hook(keep)
    logits, _, maps = model(image)
    handle.remove()
    image_features = features
    assert image_features is not None
    expected = functional.conv2d(image_features, model.fc.weight[:, :, None, None])
    expected /= image_features.shape[2] * image_features.shape[3]
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(maps.sum(dim=(2, 3)) + model.fc.bias, logits)


@pytest.mark.parametrize(
    ("model", "masked"),
    [
        (ResNet50(width=0.125), False),
        (MaskCN(width=0.125, blocks=1), True),
        (LesionClassifier(size=64), True),
        (LitePatterns(size=64), True),
        (BilinearVgg(width=0.125, size=64), True),
    ],
    ids=["ResNet50", "MaskCN", "LesionClassifier", "LitePatterns", "BilinearVgg"],
)
def test_every_classifier_has_stages_that_can_be_read(
    model: ResNet50 | MaskCN | LesionClassifier | LitePatterns | BilinearVgg, *, masked: bool
) -> None:
    torch.manual_seed(2)
    inputs = [torch.rand(2, 3, 64, 64), torch.ones(2, 1, 64, 64)][: 1 + masked]
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = visual_backprop(model, inputs, model.stages)
    assert found.shape == (2, 1, 64, 64)
    assert found.amin(dim=(1, 2, 3)).tolist() == [0, 0]
    torch.testing.assert_close(found.amax(dim=(1, 2, 3)), torch.ones(2))
    # Nothing stays behind: no hook, no gradient, no changed weight.
    assert all(not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_layers_that_do_not_take_part_are_refused() -> None:
    model = Gazer()
    image = torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"did not run .* \[1\]"):
        visual_backprop(model, [image], [model.shallow, nn.ReLU()])
    with pytest.raises(ValueError, match="at least one stage"):
        visual_backprop(model, [image], [])
    assert not model.shallow._forward_hooks
