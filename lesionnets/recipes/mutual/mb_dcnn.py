"""MB-DCNN: segmentation and classification that help each other (Xie et al., IEEE TMI 2020); ISIC 2017 (CC0).

Four networks are trained one after another, each in a folder of its own below the run's folder:

1. ``coarse``: coarse-SN, from the image to a coarse mask, by Dice + 0.05 rank loss. 2. ``mask``: mask-CN, from
image and coarse mask to the diagnosis, by class-balanced cross-entropy. 3. ``unguided``: the control, mask-CN's
network with a mask of ones, for as many epochs as mask-CN. 4. ``enhanced``: enhanced-SN, which starts as coarse-SN
and is told where mask-CN looked, by coarse-SN's loss.

``best.pt`` next to the folders holds all three networks in a row. ``--resume`` does not train a finished part
again. The networks are on MobileNetV2 with ImageNet's weights; the recipe ``mb_dcnn_xception`` has the paper's
network, for a GPU. What the abstract leaves open is settled in docs/decisions/0021.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lesionnets import checkpoint
from lesionnets.data.batches.guided import Guided, GuidedViews, load_guided
from lesionnets.data.batches.pairs import Pairs
from lesionnets.data.sources.isic import DIAGNOSES, find_samples, labelled, load_pairs
from lesionnets.evaluation.choosing import validation
from lesionnets.evaluation.choosing.diagnosis import DiagnosisValidation, calibrate
from lesionnets.losses.balanced import balanced_cross_entropy, class_weights
from lesionnets.losses.rank import dice_rank_loss
from lesionnets.nets.classify.mobilenet import MobileNetV2
from lesionnets.nets.mutual.mb_dcnn_mobile import MobileCoarseSN, MobileMaskCN
from lesionnets.nets.mutual.mutual import BACKBONES, MutualSN
from lesionnets.nets.tflite import imagenet_weights, load_mobilenet
from lesionnets.segmenter_training import lesion_finder
from lesionnets.training import RecipeOptions, TrainingRun, fit

MINUTES = 70.0
SHARES = {"coarse": 0.25, "mask": 0.15, "unguided": 0.15, "enhanced": 0.45}
"""Shares of the minutes. The control's follow from mask-CN's, as it is trained for as many epochs."""

PATIENCE = 20
"""Number of validations without a better figure after which a part is finished."""


@dataclass(frozen=True)
class MutualRecipe:
    """Backbone and sizes.

    Attributes:
        backbone: One of ``lesionnets.nets.mutual.mutual.BACKBONES``.
        size: Side of the pictures in pixels.
        batch_size: Images in a batch.
        rate: Peak learning rate of layers that start from scratch; those from ImageNet or coarse-SN get a tenth.
        width: Keyword arguments that make networks narrower, for segmentation and for classification.
    """

    backbone: str
    size: int = 192
    batch_size: int = 16
    rate: float = 2e-3
    width: tuple[dict[str, Any], dict[str, Any]] = ({}, {})

    @property
    def segment(self) -> dict[str, Any]:
        """Keyword arguments of coarse-SN and enhanced-SN."""
        return {"size": self.size} | self.width[0]

    @property
    def classify(self) -> dict[str, Any]:
        """Keyword arguments of mask-CN."""
        return {"classes": len(DIAGNOSES), "size": self.size} | self.width[1]

    def network(self, part: int) -> str:
        """The name that checkpoints give coarse-SN (0) or mask-CN (1)."""
        kind = BACKBONES[self.backbone][part]
        return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"

    def at_width(self, width: float | None) -> MutualRecipe:
        """The recipe with narrower networks, as far as they have widths; the recipe itself if none is given."""
        if width is None:
            return self
        takes = ["width" in signature(kind).parameters for kind in BACKBONES[self.backbone][:2]]
        segment, classify = (
            part | {"width": width} if scales else part for part, scales in zip(self.width, takes, strict=True)
        )
        return replace(self, width=(segment, classify))


MOBILENET = MutualRecipe("mobilenet")
SMALL_MOBILENET = MutualRecipe("mobilenet", size=64, batch_size=4, width=({"width": 0.25}, {}))


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the checkpoint of all three networks.

    ImageNet weights are looked for in ``DATA/../weights``.

    Raises:
        UsageError: If the data folder, its parts or the weights are missing.
    """
    recipe = SMALL_MOBILENET if options.smoke else MOBILENET
    return bootstrap(options, recipe.at_width(options.width))


def bootstrap(options: RecipeOptions, recipe: MutualRecipe) -> Path:
    """Train the parts in order, without the finished ones if ``options.resume``; see :func:`train`."""
    parts = {name: options.out / name / "best.pt" for name in SHARES}
    if not options.resume:
        # First of all: what an earlier run finished must not pass for this one's after a kill.
        for best in parts.values():
            best.unlink(missing_ok=True)
            best.with_name("last.pt").unlink(missing_ok=True)
    if not finished(parts["coarse"]):
        train_coarse(options, recipe, parts["coarse"])
    if not (finished(parts["mask"]) and finished(parts["unguided"])):
        train_classifiers(options, recipe, parts)
    if not finished(parts["enhanced"]):
        train_enhanced(options, recipe, parts)
    return gather(parts, options.out / "best.pt")


def finished(best: Path) -> bool:
    """Whether a part is trained and calibrated, which is done last."""
    return best.is_file() and "temperature" in checkpoint.load(best).figures


def budget(options: RecipeOptions, part: str) -> dict[str, Any]:
    """Arguments of ``fit`` for a part: its share of the time, and what the options say."""
    minutes = (options.minutes or MINUTES) * SHARES[part]
    length = {"epochs": 1} if options.smoke else {"minutes": minutes}
    patience = options.patience or PATIENCE
    told = {"seed": options.seed, "resume": options.resume, "must_learn": not options.smoke}
    return told | {"patience": patience, "ema_decay": 0.995} | length


def optimiser(model: nn.Module, taught: nn.Module | None, rate: float) -> torch.optim.Optimizer:
    """AdamW for what is not frozen; pretrained layers learn a tenth as fast."""
    slow = [] if taught is None else [p for p in taught.parameters() if p.requires_grad]
    known = {id(parameter) for parameter in slow}
    fast = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [{"params": fast, "lr": rate}, {"params": slow, "lr": rate / 10}]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=1e-2)


def dice_rank_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Dice + 0.05 rank loss of a batch of uint8 images and masks."""
    images, masks = batch
    return dice_rank_loss(model(images.float() / 255), masks.float() / 255)


def start(model: nn.Module, options: RecipeOptions) -> nn.Module | None:
    """Load ImageNet's weights into a network on MobileNetV2; returns the part with them, if any."""
    if not isinstance(model, MobileCoarseSN | MobileMaskCN):
        return None
    if not options.smoke:
        backbone = MobileNetV2()
        load_mobilenet(backbone, imagenet_weights(options.data_folder()))
        model.load_encoder(backbone)
    return model.encoder if isinstance(model, MobileCoarseSN) else model.backbone


def load_masked(options: RecipeOptions, recipe: MutualRecipe) -> tuple[Pairs, validation.MaskValidation]:
    """Training batches and validation of the segmentation networks."""
    data = options.data_folder()
    training, held_out = (
        find_samples(data / split / "images", data / split / "masks") for split in ("train", "val")
    )
    if options.smoke:
        training, held_out = training[:8], held_out[:4]
    images, masks = load_pairs(training, recipe.size * 4 // 3)
    return Pairs(images, masks, recipe.size, recipe.batch_size), validation.MaskValidation(held_out, recipe.size)


def train_coarse(options: RecipeOptions, recipe: MutualRecipe, best: Path) -> None:
    """Step 1: coarse-SN."""
    batches, held_out = load_masked(options, recipe)
    torch.manual_seed(options.seed)
    model = BACKBONES[recipe.backbone][0](**recipe.segment)
    taught = start(model, options)
    run = TrainingRun("segment_coarse_sn", recipe.network(0), recipe.segment, best.parent, best_by="jaccard")
    optimise = optimiser(model, taught, recipe.rate)
    fit(model, dice_rank_step, batches, held_out, run=run, optimiser=optimise, **budget(options, "coarse"))
    validation.calibrate(best, held_out)


class GuidedValidation(DiagnosisValidation):
    """AUC by class on whole pictures with the masks that coarse-SN finds."""

    def __init__(self, pictures: Guided) -> None:
        self.images = torch.from_numpy(pictures.images).permute(0, 3, 1, 2)
        self.masks = torch.tensor(pictures.masks[:, :1])
        self.labels = torch.from_numpy(pictures.labels)
        self.classes = DIAGNOSES


def train_classifiers(options: RecipeOptions, recipe: MutualRecipe, parts: dict[str, Path]) -> None:
    """Steps 2 and 3: mask-CN with coarse-SN frozen, and the control."""
    data, segment = options.data_folder(), lesion_finder(parts["coarse"], "segment_coarse_sn")
    training, held_out = (labelled(data, split) for split in ("train", "val"))
    if options.smoke:
        training, held_out = training[:8], held_out[-4:]
    pictures = load_guided(training, recipe.size * 4 // 3, segment)
    checked = load_guided(held_out, recipe.size, segment)
    if not finished(parts["mask"]):
        views = GuidedViews(pictures, recipe.size, recipe.batch_size)
        train_classifier(options, recipe, parts["mask"], views, checked, budget(options, "mask"))
    if not finished(parts["unguided"]):
        # As many epochs, not minutes: other work on the machine must not decide which of the two learns more.
        epochs = torch.load(parts["mask"].with_name("last.pt"), weights_only=True)["state"]["epoch"]
        length = budget(options, "unguided") | {"epochs": epochs, "minutes": None, "patience": None}
        views = GuidedViews(pictures, recipe.size, recipe.batch_size, guided=False)
        train_classifier(options, recipe, parts["unguided"], views, checked.unguided(), length)


def train_classifier(
    options: RecipeOptions,
    recipe: MutualRecipe,
    best: Path,
    views: GuidedViews,
    checked: Guided,
    length: dict[str, Any],
) -> None:
    """mask-CN or its control: the same network, loss, order of pictures and first weights."""
    torch.manual_seed(options.seed)
    model = BACKBONES[recipe.backbone][1](**recipe.classify)
    taught = start(model, options)
    weights = class_weights(views.pictures.labels.tolist(), len(DIAGNOSES))
    held_out = GuidedValidation(checked)

    def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        images, masks, labels = batch
        logits = model(images.float() / 255, masks.float() / 255)[0]
        return balanced_cross_entropy(logits, labels, weights.to(logits.device), smoothing=0.1)

    name = "classify_mask_cn" if views.guided else "classify_unguided"
    run = TrainingRun(name, recipe.network(1), recipe.classify, best.parent, best_by="mean_auc")
    optimise = optimiser(model, taught, recipe.rate)
    fit(model, loss_step, views, held_out, run=run, optimiser=optimise, **length)
    calibrate(best, held_out)


def train_enhanced(options: RecipeOptions, recipe: MutualRecipe, parts: dict[str, Path]) -> None:
    """Step 4: enhanced-SN with coarse-SN and mask-CN frozen, from coarse-SN's weights."""
    batches, held_out = load_masked(options, recipe)
    torch.manual_seed(options.seed)
    hyper: dict[str, Any] = {"backbone": recipe.backbone, "segment": recipe.segment, "classify": recipe.classify}
    model = MutualSN(**hyper)
    coarse = checkpoint.load(parts["coarse"], recipe="segment_coarse_sn")
    model.coarse.load_state_dict(coarse.state)
    model.guide.load_state_dict(checkpoint.load(parts["mask"], recipe="classify_mask_cn").state)
    # Its own layer for the map is missing there; the temperature is its own, and fitted again.
    learned = {name: value for name, value in coarse.state.items() if name != "temperature"}
    model.enhanced.load_state_dict(learned, strict=False)
    run = TrainingRun("segment_mb_dcnn", "mutual.MutualSN", hyper, parts["enhanced"].parent, best_by="jaccard")
    taught = model.enhanced.encoder
    assert isinstance(taught, nn.Module)  # noqa: S101 - both backbones' networks have one
    optimise = optimiser(model, taught, recipe.rate / 2)
    fit(model, dice_rank_step, batches, held_out, run=run, optimiser=optimise, **budget(options, "enhanced"))
    validation.calibrate(parts["enhanced"], held_out)


def gather(parts: dict[str, Path], best: Path) -> Path:
    """Write the checkpoint of the three networks, with the figures of all four parts."""
    whole = checkpoint.load(parts["enhanced"])
    figures = dict(whole.figures)
    for part, figure in (("coarse", "jaccard"), ("mask", "mean_auc"), ("unguided", "mean_auc")):
        reached = checkpoint.load(parts[part]).figures
        figures |= {f"{part}_{name}": value for name, value in reached.items() if name.startswith(figure)}
    checkpoint.save(
        best, recipe=whole.recipe, network=whole.network, hyper=whole.hyper, state=whole.state, figures=figures
    )
    return best
