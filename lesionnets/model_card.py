"""``MODEL_CARD.md``: what a served model was trained on, what it reaches, and what it must not be used for.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lesionnets.checkpoint import Checkpoint
from lesionnets.evaluation.figures.intervals import Figure, flat


@dataclass(frozen=True)
class About:
    """What a card says about a recipe that is not in the checkpoint."""

    does: str
    data: str
    limits: str
    licence: str = "Apache-2.0 (weights and graph); trained on data that permits it"
    command: str = ""
    """The recipe that trains it, if the model has another name."""


_MB_DCNN = "lesionnets train mb_dcnn"
_IMAGENET = "MobileNetV2 weights trained on ImageNet (Apache-2.0)"
_LITE = "EfficientNet-Lite0 weights trained on ImageNet (Apache-2.0)"
_MASKED = "The 1,800 ISIC 2017 training images with masks (CC0), chosen on the 121 validation images; " + _IMAGENET
_LABELLED = "All 2,000 ISIC 2017 training images (CC0), chosen on the 150 validation images; " + _IMAGENET
_SEGMENT_LIMITS = (
    "Trained on images that are centred on one lesion. Several lesions, lesions that leave the frame, and images "
    "of other cameras, other skin tones than the archive's (mostly light) come out worse."
)
_CLASSIFY_LIMITS = (
    "Knows three classes only: every other disease comes out as one of them. The archive's patients are mostly "
    "light-skinned, and its lesions were chosen for biopsy: probabilities do not carry over to screening."
)
_ONESHOT = (
    "The ISIC 2017 training images with masks and diagnoses except for two that are copies of test images (CC0), "
    "and 1,200 drawings of Openclipart (public domain) on drawn grounds; " + _LITE
)
_ONESHOT_LIMITS = (
    "It sees pictures of 128 x 128 pixels: borders are coarse. What it finds depends on what it is shown: a "
    "support of another look, light or camera can make it fail. Of known diseases the default model is better. "
    + _SEGMENT_LIMITS
)
_WHOLE_LIMITS = (
    "It sees whole pictures of 192 x 192 pixels, and so no fine detail of a small lesion. " + _CLASSIFY_LIMITS
)

_ISIC = "ISIC 2017 training images (1,800 dermoscopic images, CC0), chosen on the 121 validation images"

ABOUT: dict[str, About] = {
    "purify_unet": About(
        "Finds hair, ruler marks and ink in a dermoscopic image and paints the skin that they cover.",
        f"{_ISIC}, with drawn hairs, rulers and ink over them, and hair lifted from those that have most of it; "
        "the project's own phantoms",
        "What it paints is a guess that is not there to be diagnosed. Fine pigment lines can be taken for hair. "
        "Dense hair, hair out of focus and large areas of ink are removed in part only. Gel bubbles stay.",
    ),
    "purify_partial": About(
        "Finds hair, ruler marks and ink in a dermoscopic image and paints the skin that they cover, by partial "
        "convolutions.",
        f"{_ISIC}: every third, less what a classical finder sees outside the lesion, with drawn hairs, rulers "
        "and ink over them; the project's own phantoms; in the loss, MobileNetV2 weights trained on ImageNet "
        "(Apache-2.0)",
        "As purify_unet's: what it paints is a guess. Hairs that the classical finder misses are learned as skin.",
    ),
    "enhance_espcn": About(
        "Super-resolves the lesion's region x4 for viewing.",
        f"{_ISIC}: patches, half of them at up to three times as much detail a pixel, reduced by four, half of "
        "them blurred, noisy and JPEG-coded",
        "Detail that the camera did not record cannot come back: it is estimated. Measurements belong on the "
        "original. Of a picture with strong noise or compression, fine structures can be smoothed away with it.",
    ),
    "enhance_double": About(
        "Super-resolves the lesion's region x2 for viewing, where that is enlarged at most twice.",
        f"{_ISIC}: patches, half of them at up to three times as much detail a pixel, reduced by two, half of "
        "them blurred, noisy and JPEG-coded",
        "Detail that the camera did not record cannot come back: it is estimated. Measurements belong on the "
        "original. Of a picture with strong noise or compression, fine structures can be smoothed away with it.",
    ),
    "enhance_plain": About(
        "Super-resolves the lesion's region x4 for viewing, at less than half of enhance_espcn_int8's cost.",
        f"{_ISIC}: patches, half of them at up to three times as much detail a pixel, reduced by four, half of "
        "them blurred, noisy and JPEG-coded",
        "Detail that the camera did not record cannot come back: it is estimated. Measurements belong on the "
        "original. Of a picture with strong noise or compression, fine structures can be smoothed away with it.",
    ),
    "enhance_srgan": About(
        "Super-resolves the lesion's region x4 for viewing; trained against a discriminator.",
        f"{_ISIC}: the regions around the lesions, reduced by four, half of them blurred, noisy and JPEG-coded; "
        "in the loss, " + _IMAGENET,
        "It makes up texture that looks likely and was not there. Nothing may be measured or diagnosed on it.",
    ),
    "segment_unet": About(
        "Finds the skin lesion's area in a dermoscopic image.",
        _ISIC,
        _SEGMENT_LIMITS,
    ),
    "segment_mobilenet": About(
        "Finds the skin lesion's area in a dermoscopic image.",
        _MASKED,
        _SEGMENT_LIMITS,
    ),
    "segment_dilated": About(
        "Finds the skin lesion's area in a dermoscopic image, with dilated convolutions (Bisla et al. 2019).",
        f"{_ISIC}; from scratch",
        _SEGMENT_LIMITS,
    ),
    "segment_dilated_lite": About(
        "Finds the skin lesion's area in a dermoscopic image, with dilated convolutions (Bisla et al. 2019) on "
        "EfficientNet-Lite0.",
        _MASKED,
        _SEGMENT_LIMITS,
    ),
    "segment_efficient": About(
        "Finds the skin lesion's area in a dermoscopic image, on EfficientNet-B3 (SkinSegmentSRGAN).",
        f"{_ISIC}; from scratch",
        _SEGMENT_LIMITS,
    ),
    "segment_side_layers": About(
        "Finds the skin lesion's area in a dermoscopic image, of border map and lesion map (US 2018/0130203 A1).",
        f"{_ISIC}; from scratch",
        f"{_SEGMENT_LIMITS} Its loss weighs lesion and background alike, so that masks come out rather large.",
    ),
    "classify_mobilenet": About(
        "Tells melanoma, nevus and seborrheic keratosis apart, given image and lesion mask.",
        _LABELLED,
        _CLASSIFY_LIMITS,
    ),
    "segment_lite": About(
        "Finds the skin lesion's area in a dermoscopic image.",
        "The ISIC 2017 training images except for two that are copies of test images, and 123 of ISIC 2018 Task 1 "
        "(all CC0); " + _LITE,
        f"{_SEGMENT_LIMITS} Where the lesion is faint it may take the dark core alone: experts draw such lesions "
        "wider, and clinics differ; no threshold suits all.",
    ),
    "segment_oneshot": About(
        "Finds lesions of the kind that it is shown, by prototypes of a support, which `oneshot_support` makes.",
        _ONESHOT,
        _ONESHOT_LIMITS,
    ),
    "oneshot_support": About(
        "Makes the prototypes of a support, a picture with its lesion drawn, that `segment_oneshot` takes.",
        _ONESHOT,
        _ONESHOT_LIMITS,
        command="lesionnets train segment_oneshot",
    ),
    "classify_lite": About(
        "Tells melanoma, nevus and seborrheic keratosis apart, given image and lesion mask.",
        "1,998 ISIC 2017 training images (CC0), of which 1,799 and the project's own phantoms say what is usual, "
        "within limits by 121 validation images and 123 of ISIC 2018 Task 1 (CC0); " + _LITE,
        f"{_CLASSIFY_LIMITS} Of a source that training left out, it ranks keratoses far worse than on val. "
        "Pictures whose `DISTANCE` is above 1 are none of a dermatoscope, and get no diagnosis: of lesions fewer "
        "than one of a hundred, but more where the picture is very dark, pale or in a black frame. One document "
        "in sixteen and one photograph in two pass for skin.",
    ),
    "classify_patterns": About(
        "Tells melanoma, nevus and seborrheic keratosis apart by local patterns that it has discovered, given "
        "image and lesion mask, and describes each place of the lesion (`PATTERNS`).",
        "1,998 ISIC 2017 training images (CC0); " + _LITE + ", which stay as they are",
        f"{_CLASSIFY_LIMITS} It ranks diagnoses worse than `classify_lite`: take it for its patterns. It has no "
        "`DISTANCE`: pictures that are no dermoscopic ones get a diagnosis, too.",
    ),
    "classify_bilinear": About(
        "Tells melanoma, nevus and seborrheic keratosis apart by local patterns that it has discovered, given "
        "image and lesion mask, and describes each place of the lesion (`PATTERNS`).",
        "1,998 ISIC 2017 training images (CC0), chosen on the 150 validation images; from scratch",
        _CLASSIFY_LIMITS,
    ),
    "classify_resnet": About(
        "Tells melanoma, nevus and seborrheic keratosis apart on the whole picture; the lesion mask is not used.",
        "All 2,000 ISIC 2017 training images (CC0), chosen on the 150 validation images; from scratch",
        _CLASSIFY_LIMITS,
    ),
    "classify_resnet_ham10000": About(
        "Tells seven diagnoses apart on the whole picture; the lesion mask is not used.",
        "Four fifths of HAM10000 (Tschandl, Rosendahl, Kittler 2018), split by lesion; chosen on the other fifth",
        "Knows seven classes only: every other disease comes out as one of them. Two clinics, mostly light skin.",
        "CC BY-NC 4.0, as the data: no commercial use. Does not ship with this project",
        "lesionnets train classify_resnet --data HAM10000",
    ),
    "segment_coarse_sn": About(
        "Finds the skin lesion's area: coarse-SN, the first step of MB-DCNN, or a model of its own.",
        _MASKED,
        _SEGMENT_LIMITS,
        command=_MB_DCNN,
    ),
    "mb_dcnn_mask_cn": About(
        "mask-CN, the second step of MB-DCNN: where it looked to tell the diagnosis, from image and coarse mask.",
        _LABELLED,
        _WHOLE_LIMITS,
        command=_MB_DCNN,
    ),
    "mb_dcnn_enhanced_sn": About(
        "enhanced-SN, the last step of MB-DCNN: finds the skin lesion's area, told where mask-CN looked.",
        _MASKED,
        _SEGMENT_LIMITS,
        command=_MB_DCNN,
    ),
    "segment_mb_dcnn": About(
        "Finds the skin lesion's area by mutual bootstrapping: an ensemble of coarse-SN, mask-CN and enhanced-SN.",
        f"{_MASKED}; mask-CN: all 2,000 training images with their diagnoses, chosen on 150",
        _SEGMENT_LIMITS,
        command=_MB_DCNN,
    ),
    "classify_mask_cn": About(
        "Tells melanoma, nevus and seborrheic keratosis apart, given image and lesion mask: mask-CN of MB-DCNN.",
        _LABELLED,
        _WHOLE_LIMITS,
        command=_MB_DCNN,
    ),
}

_CARD = """\
# {name}, version {version}

{does}

| | |
|---|---|
| Intended use | Research and triage support under a clinician's responsibility. **Not a diagnosis**, no \
medical device. |
| Data | {data} |
| Licence | {licence} |
| Recipe | `{command}`, network `{network}`{hyper} |
| Commit | {commit} |
| Size | {parameters:,} values, {bytes:,} bytes as served |

## Figures

On validation data that was not trained on, with 95 % bootstrap intervals over images where they were measured.

| Figure | Value |
|---|---|
{figures}

## Limits

{limits}
"""


def write_card(
    path: Path,
    trained: Checkpoint,
    *,
    version: str,
    size: int,
    figures: Mapping[str, Figure] | None = None,
) -> None:
    """Write the card of a model version.

    Args:
        path: The card.
        trained: The checkpoint that the version was exported from.
        version: Version of the model.
        size: Size of the model's file in bytes.
        figures: Measured figures; by default those of the checkpoint.
    """
    about = ABOUT.get(trained.recipe, About("A model of this project.", "see the recipe", "Not described."))
    hyper = "".join(f", {key} {value}" for key, value in trained.hyper.items())
    path.write_text(
        _CARD.format(
            name=path.parent.name,
            version=version,
            does=about.does,
            data=about.data,
            licence=about.licence,
            command=about.command or f"lesionnets train {trained.recipe}",
            network=trained.network,
            hyper=hyper,
            commit=_commit(),
            parameters=sum(value.numel() for value in trained.state.values()),
            bytes=size,
            figures="\n".join(figure_rows(flat(figures) if figures else trained.figures)),
            limits=about.limits,
        )
    )


def figure_rows(figures: dict[str, float]) -> list[str]:
    """Table rows of figures; ``x_low`` and ``x_high`` are the interval of ``x``."""
    rows = []
    for name, value in figures.items():
        low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
        if name.endswith(("_low", "_high")) and name.rpartition("_")[0] in figures:
            continue
        interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
        rows.append(f"| {name.replace('_', ' ')} | {value:.3f}{interval} |")
    return rows


def _commit() -> str:
    here = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown (not a checkout)"
    return f"`{told.stdout.strip()}`"
