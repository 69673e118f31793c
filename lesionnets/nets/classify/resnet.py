"""ResNet-50 (He et al., CVPR 2016), the classification network of Bisla et al. 2019, section 3.8.

Layers have torchvision's names, so weights in that common form load with ``load_state_dict``. As the paper says,
the last layer is replaced, whatever the number of diagnoses. The 3 x 3 convolutions have the strides.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from lesionnets.data.sources.isic import DIAGNOSES
from lesionnets.nets.classify.classifier import Classifier
from lesionnets.nets.sizes import scaled

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Table 1 of the paper, column "50-layer": inner channels, blocks, stride of the first block."""

EXPANSION = 4


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolution, whose output is added to the input (fig. 5, right)."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * inner
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, values: Tensor) -> Tensor:
        """Float [N, inputs, h, w] -> [N, 4 * inner, ceil(h / stride), ceil(w / stride)], >= 0."""
        result = functional.relu(self.bn1(self.conv1(values)))
        result = functional.relu(self.bn2(self.conv2(result)))
        return functional.relu(self.bn3(self.conv3(result)) + self.downsample(values))


class ResNet50(Classifier):
    """Diagnosis of a lesion from the whole image; the network of the recipe ``classify_resnet``.

    Each block learns what to add to its input instead of a new output. So gradients reach the first layers
    unchanged, and fifty layers can be trained where plain networks get worse with depth (He et al., CVPR 2016,
    section 3, https://arxiv.org/abs/1512.03385).

    Args:
        width: Multiplies the channels of all layers; 1.0 is the paper's width.
        diagnoses: Names of the classes; there are three in ISIC 2017 and seven in ISIC 2018.
        size: Side in pixels of the square pictures that it is trained on and served with; other sizes work, too.

    Shape:
        image float [N, 3, H, W], 0 to 1 -> logits [N, classes]; embedding [N, 2048 * width] of length 1 (the last
        layer's input); class activation maps [N, classes, H / 32, W / 32] (Zhou et al., CVPR 2016), which sum to
        the logits minus the bias.
    """

    guided = False

    def __init__(self, width: float = 1.0, diagnoses: Sequence[str] = DIAGNOSES, size: int = 224) -> None:
        super().__init__(size, diagnoses, EXPANSION * scaled(STAGES[-1][0], width))
        channels = scaled(64, width)
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        for number, (count, blocks, stride) in enumerate(STAGES, start=1):
            inner = scaled(count, width)
            layers = []
            for block in range(blocks):
                layers.append(Bottleneck(channels, inner, 1 if block else stride))
                channels = EXPANSION * inner
            self.add_module(f"layer{number}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, len(diagnoses))

    @property
    def stages(self) -> Sequence[nn.Module]:
        """What VisualBackProp reads: the last layer of each resolution after its ReLU, shallow first."""
        return [self.get_submodule(f"layer{number}") for number in range(1, len(STAGES) + 1)]

    def forward(self, image: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """See the class. The mask is ignored; it is there because other classifiers take one."""
        values = functional.relu(self.bn1(self.conv1(normalised(image))))
        values = functional.max_pool2d(values, 3, 2, 1)
        for stage in self.stages:
            values = stage(values)
        pooled = values.mean(dim=(2, 3))
        places = values.shape[2] * values.shape[3]
        maps = functional.conv2d(values, self.fc.weight[:, :, None, None]) / places
        return self.fc(pooled), functional.normalize(pooled, dim=1), maps


def normalised(image: Tensor) -> Tensor:
    """An image of 0 to 1, normalised by ImageNet's mean and deviation, as published weights expect."""
    mean = image.new_tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = image.new_tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return (image - mean) / deviation
