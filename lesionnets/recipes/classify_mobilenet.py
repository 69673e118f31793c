"""Diagnosis of lesions by a MobileNetV2 with ImageNet weights, guided by the lesion's mask; ISIC 2017 (CC0).

The mask says where to look (a square around the lesion) and what to weigh (features pooled over the lesion beside
those of the whole square). Masks are those of the recipe ``segment_mobilenet``, whose run lies beside this
one, and in training the experts' too. The first blocks stay as ImageNet made them; the rest is tuned with
class-balanced cross-entropy. Last, one temperature is fitted on the validation images (Guo et al., ICML 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from dermbatch.errors import UsageError
from lesionnets import checkpoint
from lesionnets.data.isic import DIAGNOSES, Sample, find_labelled
from lesionnets.data.lesion_views import Lesion, load_lesions, plain_view, random_view
from lesionnets.data.tflite import imagenet_weights, load_mobilenet
from lesionnets.evaluation.classify import bootstrap
from lesionnets.evaluation.ranking import auc_by_class
from lesionnets.graphs.segment import SegmentGraph
from lesionnets.losses.balanced import balanced_cross_entropy, class_weights
from lesionnets.model_card import flat
from lesionnets.nets.mobilenet import LesionClassifier
from lesionnets.nets.segmenter import Segmenter
from lesionnets.training import RecipeOptions, Run, autocast, fit, shuffled

MINUTES = 20.0
SEGMENTER = "segment_mobilenet"
"""Recipe of the network that finds the lesions."""
FROZEN = 4
"""First layers of the backbone that are not trained: edges and colours are the same everywhere."""

Image = npt.NDArray[np.uint8]
Views = tuple[Tensor, Tensor, Tensor]
"""Images uint8 [N, 3, S, S], masks uint8 [N, 1, S, S], labels int64 [N]."""


class RandomViews:
    """Batches of random views, every lesion once an epoch."""

    def __init__(self, lesions: Sequence[Lesion], size: int, batch_size: int) -> None:
        self.lesions, self.size, self.batch_size = lesions, size, batch_size

    def __len__(self) -> int:
        return max(len(self.lesions) // self.batch_size, 1)

    def __iter__(self) -> Iterator[Views]:
        for indices in shuffled(len(self.lesions), self.batch_size):
            random = np.random.default_rng(int(torch.randint(2**62, ())))
            chosen = [self.lesions[i] for i in indices]
            yield stack([random_view(lesion, self.size, random) for lesion in chosen], chosen)


def stack(views: Sequence[tuple[Image, Image]], lesions: Sequence[Lesion]) -> Views:
    """Views and labels as tensors."""
    images = torch.from_numpy(np.stack([image for image, _ in views])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([mask for _, mask in views]))[:, None]
    return images, masks, torch.tensor([lesion.label for lesion in lesions])


class Validation:
    """AUC by class on the views that are served."""

    def __init__(self, lesions: Sequence[Lesion], size: int) -> None:
        self.images, self.masks, self.labels = stack([plain_view(lesion, size) for lesion in lesions], lesions)

    def logits(self, model: nn.Module) -> Tensor:
        """Float [N, classes] of all validation images."""
        where = next(model.parameters()).device
        parts = []
        for images, masks in zip(torch.split(self.images, 32), torch.split(self.masks, 32), strict=True):
            parts.append(model(images.to(where).float() / 255, masks.to(where).float() / 255)[0].float().cpu())
        return torch.cat(parts)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """AUC by class and their mean, accuracy, negative log-likelihood."""
        logits = self.logits(model)
        probabilities = logits.softmax(dim=1)
        accuracy = float((probabilities.argmax(dim=1) == self.labels).float().mean())
        figures = auc_by_class(probabilities.numpy(), self.labels.numpy())
        return figures | {"accuracy": accuracy, "nll": float(functional.cross_entropy(logits, self.labels))}


def train(options: RecipeOptions) -> Path:
    """Train on the ``train`` split of ``DATA/labels.csv``, choose on ``val``; returns the best checkpoint.

    ImageNet weights are looked for in ``DATA/../weights``, the segmentation network beside ``options.out``.

    Raises:
        UsageError: Where data, weights or the segmentation network are missing.
    """
    data = options.data_folder()
    training, held_out = (labelled(data, split) for split in ("train", "val"))
    size, batch_size = 224, 32
    if options.smoke:
        training, held_out, size, batch_size = training[:8], held_out[-4:], 64, 4
    segment = segmenter(options.out.parent / SEGMENTER / "best.pt")
    torch.manual_seed(options.seed)
    hyper = {"classes": len(DIAGNOSES), "size": size}
    model = LesionClassifier(**hyper)
    if not options.smoke:
        load_mobilenet(model.backbone, imagenet_weights(data))
    model.backbone.layers[:FROZEN].requires_grad_(requires_grad=False)
    lesions = load_lesions(training, segment)
    validation = Validation(load_lesions(held_out, segment), size)
    weights = class_weights([lesion.label for lesion in lesions], len(DIAGNOSES))

    def loss_step(model: nn.Module, batch: Views) -> Tensor:
        images, masks, labels = batch
        logits, _, _ = model(images.float() / 255, masks.float() / 255)
        return balanced_cross_entropy(logits, labels, weights.to(logits.device), smoothing=0.1)

    outcome = fit(
        model,
        loss_step,
        RandomViews(lesions, size, batch_size),
        validation,
        run=Run("classify_mobilenet", "mobilenet.LesionClassifier", hyper, options.out, best_by="mean_auc"),
        optimiser=torch.optim.AdamW(
            [
                {"params": [p for p in model.backbone.parameters() if p.requires_grad], "lr": 2e-4},
                {"params": model.head.parameters(), "lr": 2e-3},
            ],
            weight_decay=0.05,
        ),
        epochs=2 if options.smoke else None,
        minutes=None if options.smoke else options.minutes or MINUTES,
        seed=options.seed,
        resume=options.resume,
        ema_decay=0.995,
    )
    calibrate(outcome.best, validation)
    return outcome.best


def labelled(data: Path, split: str) -> list[Sample]:
    """The images of a split that have a diagnosis; those without a mask too."""
    folders = [folder for folder in (data / split / "images", data / "unmasked_256") if folder.is_dir()]
    return find_labelled(folders, data / "labels.csv", masks=data / split / "masks", split=split)


def segmenter(path: Path) -> Callable[[Image], Image]:
    """The function from image to lesion probability (uint8) of a segmentation checkpoint.

    Raises:
        UsageError: Where the checkpoint is missing or of another recipe.
    """
    if not path.is_file():
        raise UsageError(f"this recipe needs the segmentation network: train {SEGMENTER} into {path.parent} first")
    network = checkpoint.load(path, recipe=SEGMENTER).build()
    assert isinstance(network, Segmenter)  # noqa: S101 - the recipe makes no other
    graph = SegmentGraph(network)

    def segment(image: Image) -> Image:
        with torch.inference_mode():
            return np.asarray(graph(torch.from_numpy(image)[None])[0].numpy())

    return segment


def calibrate(path: Path, validation: Validation) -> None:
    """Fit the temperature that makes the validation labels most likely; write it and the figures' intervals."""
    trained = checkpoint.load(path)
    model = trained.build()
    with torch.inference_mode(), autocast(torch.device("cpu")):
        logits = validation.logits(model)
    candidates = torch.logspace(-1, 1, 201)
    losses = torch.stack([functional.cross_entropy(logits / t, validation.labels) for t in candidates])
    best = int(losses.argmin())
    measured = bootstrap(logits.softmax(dim=1).numpy(), validation.labels.numpy())
    figures = flat(measured) | {"nll": float(losses[best]), "temperature": float(candidates[best])}
    checkpoint.save(
        path,
        recipe=trained.recipe,
        network=trained.network,
        hyper=trained.hyper,
        state=trained.state | {"temperature": candidates[best]},
        figures=figures,
    )
