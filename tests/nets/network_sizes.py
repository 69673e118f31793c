"""How each network is tried, and how many parameters it has in its paper, added up from its table of layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Shape = tuple[int, ...]


def like(channels: int, scale: float = 1) -> Callable[[int, int], list[Shape]]:
    """Outputs of one tensor, of the image's size by a factor."""
    return lambda height, width: [(channels, int(height * scale), int(width * scale))]


@dataclass(frozen=True)
class Case:
    """How a network is tried.

    Attributes:
        parameters: At width 1.0, of the paper; the sum of its table of layers where it gives none.
        outputs: Shapes of the outputs without the batch, for an image's height and width.
        inputs: Channels of each input; what is not three channels is a mask.
        small: Hyper-parameters of a quick one.
        sides: Sizes that it must take, the first one the size for gradients and export.
        paper: Side of the image in the paper, for docs/models.md.
        given: Sides of the inputs after the first over the image's, where they differ.
    """

    parameters: int
    outputs: Callable[[int, int], list[Shape]]
    inputs: tuple[int, ...] = (3,)
    small: dict[str, Any] = field(default_factory=lambda: {"width": 0.125})
    sides: tuple[tuple[int, int], ...] = ((64, 64), (37, 53))
    paper: int = 224
    given: float = 1.0


def ceil(value: int, by: int) -> int:
    return -(-value // by)


def norm(*channels: int) -> int:
    """Parameters of batch norms."""
    return 2 * sum(channels)


def light_decoder(*levels: tuple[int, int, int]) -> int:
    """Of the U-Nets' decoder without biases but the last one's; channels below, beside and after."""
    filtered = sum(
        9 * (a + b) + norm(a + b) + (a + b) * c + norm(c) + 9 * c + norm(c) + c * c + norm(c) for a, b, c in levels
    )
    return filtered + 48 * 4 + 4


def double(inputs: int, outputs: int) -> int:
    """Two 3 x 3 convolutions with biases."""
    return 9 * inputs * outputs + outputs + 9 * outputs * outputs + outputs


def aligned(inputs: int, inner: int, outputs: int, shortcut: bool = False) -> int:
    """Block of DeepLabv3+'s Xception: depthwise, norm, pointwise, norm, three times; a shortcut."""
    steps = [(inputs, inner), (inner, outputs), (outputs, outputs)]
    layers = sum(9 * a + norm(a) + a * b + norm(b) for a, b in steps)
    return layers + shortcut * (inputs * outputs + norm(outputs))


def plain(*channels: int, shortcut: bool = False) -> int:
    """Block of Xception: depthwise, pointwise, norm; a shortcut."""
    layers = sum(9 * a + a * b + norm(b) for a, b in pairwise(channels))
    return layers + shortcut * (channels[0] * channels[-1] + norm(channels[-1]))


XCEPTION = (
    # Stem 3 -> 32 -> 64, entry to 128, 256 and 728, 16 middle blocks, exit to 1024, then 1536, 1536 and 2048.
    9 * 3 * 32 + norm(32) + 9 * 32 * 64 + norm(64)
    + aligned(64, 128, 128, True) + aligned(128, 256, 256, True) + aligned(256, 728, 728, True)
    + 16 * aligned(728, 728, 728) + aligned(728, 728, 1024, True)
    + sum(9 * a + norm(a) + a * b + norm(b) for a, b in ((1024, 1536), (1536, 1536), (1536, 2048)))
)  # fmt: skip
COARSE = (
    XCEPTION
    # Pyramid: 1 x 1, three dilated 3 x 3, the image's mean (a bias in place of its norm), and their join.
    + 2048 * 256 + 3 * 9 * 2048 * 256 + 4 * norm(256) + 2048 * 256 + 256 + 5 * 256 * 256 + norm(256)
    # Fine features to 48, two convolutions of 256, one logit.
    + 256 * 48 + norm(48) + 9 * (256 + 48) * 256 + 9 * 256 * 256 + norm(256, 256) + 256 + 1
)  # fmt: skip
MOBILENET = 2_223_872 - 17_056  # published, less batch norm's second value of each of 17,056 channels: folded in
VGG_CONVOLUTIONS = 14_714_688  # of configuration D, as published: 138,357,544 less its dense layers
MOBILE_COARSE = (
    # MobileNetV2 without its last convolution; the pyramid as above; fine features to 32; two separable
    # convolutions of 96 (norms after both halves), one logit.
    MOBILENET - 320 * 1280 - 1280
    + 320 * 96 + 3 * 9 * 320 * 96 + 4 * norm(96) + 320 * 96 + 96 + 5 * 96 * 96 + norm(96)
    + 24 * 32 + norm(32) + sum(9 * a + norm(a) + a * 96 + norm(96) for a in (96 + 32, 96)) + 96 + 1
)  # fmt: skip
LITE_BLOCKS = (
    (1, 3, 1, 32, 16),
    (2, 3, 6, 16, 24),
    (2, 5, 6, 24, 40),
    (3, 3, 6, 40, 80),
    (3, 5, 6, 80, 112),
    (4, 5, 6, 112, 192),
    (1, 3, 6, 192, 320),
)


def lite(groups: int) -> int:
    """The stem and so many groups of blocks."""
    return (
        9 * 3 * 32
        + 32
        + sum(
            (e > 1) * (a * a * e + a * e) + k * k * a * e + a * e + a * e * b + b
            for repeats, k, e, first, b in LITE_BLOCKS[:groups]
            for a in (first, *[b] * (repeats - 1))
        )
    )


LITE = lite(7) + 320 * 1280 + 1280
"""EfficientNet-Lite0 (Tan and Le 2019, table 1) without attention, batch norm folded in."""
CASES = {
    # Liu et al. 2018, appendix, table of layers; biases as in eq. 1. (An implementation with one more 1 x 1
    # convolution of 3 channels reports 32,865,248: twelve more.)
    "partial_unet.PartialUNet": Case(
        7 * 7 * 3 * 64
        + 25 * 64 * 128
        + 25 * 128 * 256
        + 9 * 256 * 512
        + 4 * 9 * 512 * 512
        + 4 * 9 * 1024 * 512
        + 9 * 768 * 256
        + 9 * 384 * 128
        + 9 * 192 * 64
        + 9 * 67 * 3
        + (64 + 128 + 256 + 5 * 512)
        + (4 * 512 + 256 + 128 + 64 + 3)
        + norm(128, 256, *5 * [512])
        + norm(*4 * [512], 256, 128, 64),
        like(3),
        inputs=(3, 1),
        paper=512,
    ),
    # Ronneberger et al. 2015, fig. 1, padded, three colours, one logit; dilation costs no parameter.
    "dilated_unet.DilatedUNet": Case(
        double(3, 64)
        + double(64, 128)
        + double(128, 256)
        + double(256, 512)
        + double(512, 1024)
        + sum(4 * 2 * here * here + here + double(2 * here, here) for here in (512, 256, 128, 64))
        + 64
        + 1,
        like(1),
        paper=512,
    ),
    # The same, except for the levels at a half to a sixteenth of the sides: the encoder has 16, 24, 40, 112.
    "dilated_unet_lite.DilatedUNetLite": Case(
        lite(5)
        + double(3, 64)
        + double(40, 512)
        + double(112, 1024)
        + sum(4 * 2 * here * here + here for here in (512, 256, 128, 64))
        + double(2 * 512, 512)
        + double(256 + 24, 256)
        + double(128 + 16, 128)
        + double(2 * 64, 64)
        + 64
        + 1,
        like(1),
        paper=160,
    ),
    # 25,557,032 published with 1,000 classes; here 3.
    "resnet.ResNet50": Case(25_557_032 - 997 * 2049, lambda h, w: [(3,), (256,), (3, ceil(h, 32), ceil(w, 32))]),
    # EfficientNet-B3: 12,233,232 published, less its last convolution (384 -> 1536), norm and classifier. Decoder:
    # 384 + 136 -> 256, 256 + 48 -> 128, 128 + 32 -> 64, 64 + 24 -> 32, 32 -> 16: two convolutions and norms each.
    "efficient_unet.EfficientUNet": Case(
        12_233_232
        - 384 * 1536
        - norm(1536)
        - 1537 * 1000
        + 9
        * (
            520 * 256
            + 256 * 256
            + 304 * 128
            + 128 * 128
            + 160 * 64
            + 64 * 64
            + 88 * 32
            + 32 * 32
            + 32 * 16
            + 16 * 16
        )
        + 2 * norm(256, 128, 64, 32, 16)
        + 9 * 16
        + 1,
        like(1),
        small={"width": 0.125, "depth": 0.1},
        paper=256,
    ),
    # Ledig et al. 2017, fig. 4, one value a PReLU: stem, 16 blocks, a convolution, two enlargements, picture.
    "srgan.SrganGenerator": Case(
        81 * 3 * 64
        + 64
        + 1
        + 16 * (2 * 9 * 64 * 64 + norm(64, 64) + 1)
        + 9 * 64 * 64
        + norm(64)
        + 2 * (9 * 64 * 256 + 256 + 1)
        + 81 * 64 * 3
        + 3,
        like(3, 4),
        small={"width": 0.125, "blocks": 2},
        sides=((16, 16), (7, 9)),
        paper=64,
    ),
    # The same figure, at 96 x 96 pixels: dense layers of 6 x 6 x 512 -> 1024 -> 1.
    "srgan.SrganDiscriminator": Case(
        9 * 3 * 64
        + 64
        + 9 * (64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 512)
        + norm(64, 128, 128, 256, 256, 512, 512)
        + 36 * 512 * 1024
        + 1024
        + 1024
        + 1,
        lambda h, w: [(1,)],
        sides=((96, 96), (50, 71)),
        paper=256,
    ),
    # DeepLabv3+ on Xception with 16 middle blocks, 54.7 M as commonly reported.
    "mb_dcnn.CoarseSN": Case(COARSE, like(1), small={"width": 0.125, "blocks": 1}),
    # The localisation map joins the pyramid's 256 channels.
    "mb_dcnn.EnhancedSN": Case(
        COARSE + 257 * 256 + norm(256), like(1), inputs=(3, 1), small={"width": 0.125, "blocks": 1}, given=1 / 16
    ),
    # Xception, 22,855,952 published with 3 colours and 1,000 classes: a fourth colour, and 3 classes.
    "mb_dcnn.MaskCN": Case(
        22_855_952 + 9 * 32 - 997 * 2049,
        lambda h, w: [(3,), (3, ceil(h, 16), ceil(w, 16))],
        inputs=(3, 1),
        small={"width": 0.125, "blocks": 1},
    ),
    "mb_dcnn_mobile.MobileCoarseSN": Case(MOBILE_COARSE, like(1), paper=192),
    # The localisation map joins the pyramid's 96 channels; neither bias nor norm.
    "mb_dcnn_mobile.MobileEnhancedSN": Case(
        MOBILE_COARSE + 97 * 96, like(1), inputs=(3, 1), given=1 / 16, paper=192
    ),
    # A fourth colour; features pooled twice.
    "mb_dcnn_mobile.MobileMaskCN": Case(
        MOBILENET + 9 * 32 + 2 * 1280 * 3 + 3,
        lambda h, w: [(3,), (3, ceil(h, 16), ceil(w, 16))],
        inputs=(3, 1),
        small={},
        paper=192,
    ),
    # Fig. 4: VGG-16's convolutions, conv5_4, side layers to 16 maps. Then (0056, 0061): a deconvolution of every
    # map at strides 2, 4, 8, 16, 16; a score of each; 4 weights and a map of each concatenation; the end.
    "side_layers.SideLayersVgg": Case(
        VGG_CONVOLUTIONS
        + 9 * 512 * 512
        + 512
        + 9 * 16 * (128 + 256 + 3 * 512)
        + 5 * 16
        + 16 * (4**2 + 8**2 + 16**2 + 2 * 32**2)
        + 5 * 17
        + 2 * (4 + 65)
        + 129,
        lambda h, w: [(1, h, w), (1, h, w), (1, h, w), (5, h, w)],
    ),
    # MobileNetV2 without its last convolution (320 -> 1280), and a decoder without biases but the last one's.
    "unet_mobilenet.UNetMobileNet": Case(
        MOBILENET - 320 * 1280 - 1280 + light_decoder((320, 96, 160), (160, 32, 96), (96, 24, 64), (64, 16, 48)),
        like(1),
    ),
    # The paper's plain U-Net made small by this project: five levels on the image folded 2 x 2.
    "unet.UNet": Case(
        9
        * (
            12 * 32
            + 32 * 32
            + 32 * 64
            + 64 * 64
            + 64 * 96
            + 96 * 96
            + 96 * 112
            + 112 * 112
            + 112 * 128
            + 128 * 128
        )
        + 9 * (240 * 112 + 112 * 112 + 208 * 96 + 96 * 96 + 160 * 64 + 64 * 64 + 96 * 32 + 32 * 32)
        + 2 * norm(32, 64, 96, 112, 128)
        + 2 * norm(112, 96, 64, 32)
        + 32 * 4
        + 4,
        like(1),
        paper=160,
    ),
    "efficient_lite.EfficientLite": Case(LITE, lambda h, w: [(1280, ceil(h, 32), ceil(w, 32))], small={}),
    "lite.LiteClassifier": Case(
        LITE + 2 * 1280 * 3 + 3,
        lambda h, w: [(3,), (1280,), (3, ceil(h, 32), ceil(w, 32))],
        inputs=(3, 1),
        small={"size": 64},
        sides=((64, 64), (96, 160)),
    ),
    # The encoder without its last convolution, and the decoder of unet_mobilenet.
    "unet_lite.UNetLite": Case(
        LITE - 320 * 1280 - 1280 + light_decoder((320, 112, 160), (160, 40, 96), (96, 24, 64), (64, 16, 48)),
        like(1),
    ),
    # In training: of each convolution a 3 x 3, a 1 x 1, and a 1 x 1 that widens four times before a 3 x 3;
    # 16 filters of 5 x 5 beside the features.
    "plain.PlainEnhancer": Case(
        14 * 3 * 16 + 36 * 16**2 + 16 + 4 * (50 * 16**2 + 16) + 25 * 3 * 16 + 32 * 48 + 48,
        like(3, 4),
        small={"channels": 4, "blocks": 1},
        sides=((16, 16), (7, 9)),
        paper=64,
    ),
    "mobilenet.MobileNetV2": Case(MOBILENET, lambda h, w: [(1280, ceil(h, 32), ceil(w, 32))], small={}),
    "mobilenet.LesionClassifier": Case(
        MOBILENET + 2 * 1280 * 3 + 3,
        lambda h, w: [(3,), (1280,), (3, ceil(h, 32), ceil(w, 32))],
        inputs=(3, 1),
        small={"size": 64},
        sides=((64, 64), (96, 160)),
    ),
    "espcn.Espcn": Case(
        9 * 3 * 24 + 24 + 2 * 2 * (9 * 24 * 24 + 24) + 9 * 24 * 48 + 48,
        like(3, 4),
        small={"channels": 4, "blocks": 1},
        sides=((16, 16), (7, 9)),
        paper=64,
    ),
    "doubler.Doubler": Case(
        9 * 12 * 32 + 32 + 3 * 2 * (9 * 32 * 32 + 32) + 9 * 32 * 48 + 48,
        like(3, 2),
        small={"channels": 4, "blocks": 1},
        sides=((16, 16), (6, 10)),
        paper=64,
    ),
    # Stem on 12 channels, a convolution a level, three that widen, three up (with biases), three that merge, head.
    "purifier.Purifier": Case(
        9 * (12 * 16 + 16**2 + 32**2 + 64**2 + 96**2 + 16 * 32 + 32 * 64 + 64 * 96)
        + 4 * (32 * 16 + 64 * 32 + 96 * 64)
        + (16 + 32 + 64)
        + 9 * 2 * (16**2 + 32**2 + 64**2)
        + norm(16, 16, 32, 64, 96, 32, 64, 96, 16, 32, 64)
        + 9 * 16 * 16
        + 16,
        lambda h, w: [(1, h, w), (3, h, w)],
        small={"widths": (4, 6)},
        sides=((64, 64), (36, 52)),
        paper=512,
    ),
}
