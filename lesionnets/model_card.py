"""``MODEL_CARD.md``: what a served model was trained on, what it reaches, and what it must not be used for.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lesionnets.checkpoint import Checkpoint
from lesionnets.evaluation.intervals import Figure


@dataclass(frozen=True)
class About:
    """What a card says of a recipe that no checkpoint knows."""

    does: str
    data: str
    limits: str
    recipe: str = ""
    """Where it is one of several models that a recipe makes."""


_IMAGENET = "MobileNetV2 weights trained on ImageNet (Apache-2.0)"
_MASKED = "The 1,800 ISIC 2017 training images with masks (CC0), chosen on the 121 validation images; " + _IMAGENET
_LABELLED = "All 2,000 ISIC 2017 training images (CC0), chosen on the 150 validation images; " + _IMAGENET
_SEGMENTATION_LIMITS = (
    "Trained on images that are centred on one lesion. Several lesions, lesions that leave the frame, and "
    "images of other cameras, other skin tones than the archive's (mostly light) come out worse."
)
_CLASSIFICATION_LIMITS = (
    "Knows three classes only: every other disease comes out as one of them. It sees whole pictures of 192 x 192 "
    "pixels, and so no fine detail of a small lesion. The archive's patients are mostly light-skinned, and its "
    "lesions were chosen for biopsy: probabilities do not carry over to screening."
)

_ISIC = "ISIC 2017 training images (1,800 dermoscopic images, CC0), chosen on the 121 validation images"

ABOUT: dict[str, About] = {
    "purify_unet": About(
        "Finds hair, ruler marks and ink in a dermoscopic image and paints the skin that they cover.",
        f"{_ISIC}, with drawn hairs, rulers and ink over them; the project's own phantoms",
        "What it paints is a guess that is not there to be diagnosed. Fine pigment lines can be taken for hair. "
        "Dense hair, hair out of focus and large areas of ink are removed in part only. Gel bubbles stay.",
    ),
    "enhance_espcn": About(
        "Super-resolves the lesion's region x4 for viewing.",
        f"{_ISIC}: the regions around the lesions, reduced by four",
        "Detail that the camera did not record cannot come back: it is estimated. Measurements belong on the "
        "original. Strong compression artefacts are sharpened too.",
    ),
    "segment_unet": About(
        "Finds the skin lesion's area in a dermoscopic image.",
        _ISIC,
        "Trained on images that are centred on one lesion. Several lesions, lesions that leave the frame, and "
        "images of other cameras, other skin tones than the archive's (mostly light) come out worse.",
    ),
    "classify_mobilenet": About(
        "Tells melanoma, nevus and seborrheic keratosis apart, given image and lesion mask.",
        "All 2,000 ISIC 2017 training images (CC0), chosen on the 150 validation images; MobileNetV2 weights "
        "trained on ImageNet (Apache-2.0)",
        "Knows three classes only: every other disease comes out as one of them. The archive's patients are "
        "mostly light-skinned, and its lesions were chosen for biopsy: probabilities do not carry over to "
        "screening.",
    ),
    "segment_coarse_sn": About(
        "Finds the skin lesion's area: coarse-SN, the first step of MB-DCNN, or a model of its own.",
        _MASKED,
        _SEGMENTATION_LIMITS,
        "mb_dcnn",
    ),
    "mb_dcnn_mask_cn": About(
        "mask-CN, the second step of MB-DCNN: where it looked to tell the diagnosis, from image and coarse mask.",
        _LABELLED,
        _CLASSIFICATION_LIMITS,
        "mb_dcnn",
    ),
    "mb_dcnn_enhanced_sn": About(
        "enhanced-SN, the last step of MB-DCNN: finds the skin lesion's area, told where mask-CN looked.",
        _MASKED,
        _SEGMENTATION_LIMITS,
        "mb_dcnn",
    ),
    "segment_mb_dcnn": About(
        "Finds the skin lesion's area by mutual bootstrapping: an ensemble of coarse-SN, mask-CN and enhanced-SN.",
        f"{_MASKED}; mask-CN: all 2,000 training images with their diagnoses, chosen on 150",
        _SEGMENTATION_LIMITS,
        "mb_dcnn",
    ),
    "classify_mask_cn": About(
        "Tells melanoma, nevus and seborrheic keratosis apart, given image and lesion mask: mask-CN of MB-DCNN.",
        _LABELLED,
        _CLASSIFICATION_LIMITS,
        "mb_dcnn",
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
| Licence | Apache-2.0 (weights and graph); trained on data that permits it |
| Recipe | `lesionnets train {recipe}`, network `{network}`{hyper} |
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
        version: Of the model.
        size: Of the model's file, bytes.
        figures: Measured figures; the checkpoint's own where there are none.
    """
    about = ABOUT.get(trained.recipe, About("A model of this project.", "see the recipe", "Not described."))
    hyper = "".join(f", {key} {value}" for key, value in trained.hyper.items())
    path.write_text(
        _CARD.format(
            name=path.parent.name,
            recipe=about.recipe or trained.recipe,
            version=version,
            does=about.does,
            data=about.data,
            network=trained.network,
            hyper=hyper,
            commit=_commit(),
            parameters=sum(value.numel() for value in trained.state.values()),
            bytes=size,
            figures="\n".join(figure_rows(flat(figures) if figures else trained.figures)),
            limits=about.limits,
        )
    )


def flat(figures: Mapping[str, Figure]) -> dict[str, float]:
    """Figures as a checkpoint holds them: ``x``, ``x_low`` and ``x_high``."""
    return {
        name + end: value
        for name, figure in figures.items()
        for end, value in (("", figure.mean), ("_low", figure.low), ("_high", figure.high))
    }


def figure_rows(figures: dict[str, float]) -> list[str]:
    """Table rows of figures; ``x_low`` and ``x_high`` beside ``x`` are its interval."""
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
