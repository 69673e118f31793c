"""Pictures of one scarce diagnosis by a DCGAN of its own (Bisla et al. 2019, section 3.6).

``lesionnets train generate_dcgan --class melanoma``. Two phases. First the generator learns alone to draw training
pictures, reduced to as many principal components as a latent vector has numbers; so it begins with what they have
in common, and each number means something. Then it plays against the discriminator: both learn one step together,
then the generator two more alone.

What keeps it stable: some of the first phase's loss stays on; the discriminator is told 0.9 instead of 1 of
originals (one-sided label smoothing; Salimans et al. 2016, section 3.4), sees how much a batch varies
(:class:`lesionnets.nets.generate.dcgan.MinibatchDeviation`) and sees all pictures varied
(:mod:`lesionnets.losses.varied`); of the generator's weights an average is kept. Training ends early where the
Frechet distance to the training pictures, in features of MobileNetV2, no longer falls. The validation images have
thirty melanomas, too few for it; whether pictures are copies,
:mod:`lesionnets.evaluation.generated.duplicates` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dermbatch.errors import UsageError
from lesionnets import checkpoint
from lesionnets.data.by_class import MARGIN, ByClass, load_classes
from lesionnets.data.sources import folds, ham10000, isic
from lesionnets.data.sources.isic import Sample
from lesionnets.evaluation.figures.frechet import Features, frechet_distance
from lesionnets.losses.adversarial import adversarial_loss
from lesionnets.losses.perceptual import PerceptualFeatures, imagenet_features
from lesionnets.losses.varied import varied
from lesionnets.nets.classify.mobilenet import MobileNetV2
from lesionnets.nets.generate.dcgan import DcganDiscriminator, DcganGenerator
from lesionnets.nets.generate.principal import Principal
from lesionnets.nets.tflite import imagenet_weights
from lesionnets.training import RecipeOptions, TrainingRun, device, fit

NAME = "generate_dcgan"
SIZE = 64
"""Side of the pictures in pixels, if none is asked for."""
MINUTES = 20.0
PATIENCE = 15
WIDTH = 0.125
"""On a CPU; 1.0 is the paper's."""
BATCH = 16
ALONE = 2
"""Steps of the generator alone after each that it learns together with the discriminator (section 3.6)."""
STEPS = 90
"""Of the generator, an epoch."""
RATE = 4e-4
"""Of the generator, at its peak. Radford et al.'s 2e-4 is for many times as many steps."""
DRAWING_RATE = 2e-3
"""Of the first phase, at its peak."""
DRAWING_SHARE = 0.3
"""Of the time, for the first phase."""
DRAWING_WEIGHT = 3.0
"""Of the first phase's loss in the second one."""
BETAS = (0.5, 0.999)
ORIGINAL = 0.9
"""What the discriminator is told that originals are."""
TRIED = 300
"""Pictures by which a generator is judged while it learns."""
SHOWN = 8
"""Pictures of a class in ``samples.png``."""


Batch = tuple[Tensor, Tensor]
"""Pictures uint8 [N, 3, S, S], labels int64 [N]."""


class Drawing:
    """How far what the generator draws of a picture's principal components is from the picture: mean, 0 to 1."""

    def __init__(self, components: Principal) -> None:
        self._components = components

    def __call__(self, generator: nn.Module, batch: Batch) -> Tensor:
        """The first phase's loss."""
        pictures, labels = batch[0].float() / 255, batch[1]
        drawn = generator(self._components(pictures, labels), labels).float()
        error: Tensor = (drawn - pictures).abs().mean()
        return error


class DcganAdversary:
    """The discriminator, and how it learns: at every third step of the generator.

    Args:
        discriminator: On the device that training runs on.
        generator: The generator's optimiser, whose course of rates is this one's, too.
        drawing: The first phase's loss.
    """

    def __init__(
        self, discriminator: DcganDiscriminator, generator: torch.optim.Optimizer, drawing: Drawing
    ) -> None:
        self.discriminator, self._drawing = discriminator, drawing
        self.optimiser = torch.optim.Adam(discriminator.parameters(), lr=RATE, betas=BETAS)
        self._generator = generator
        self._steps = 0

    def __call__(self, generator: nn.Module, batch: Batch) -> Tensor:
        """Teach the discriminator where it is its turn, and return what the generator pays."""
        pictures, labels = batch
        # As many of each class as there are originals.
        generated = generator(_latent(generator, len(labels)), labels).float()
        if self._steps % (1 + ALONE) == 0:
            self._teach(pictures.float() / 255, generated.detach(), labels)
        self._steps += 1
        self.discriminator.requires_grad_(requires_grad=False)
        paid = adversarial_loss(self.discriminator(varied(generated), labels))
        return torch.add(paid, self._drawing(generator, batch), alpha=DRAWING_WEIGHT)

    def _teach(self, originals: Tensor, generated: Tensor, labels: Tensor) -> None:
        for group, of_generator in zip(self.optimiser.param_groups, self._generator.param_groups, strict=True):
            group["lr"] = of_generator["lr"]
        self.discriminator.train().requires_grad_(requires_grad=True)
        self.optimiser.zero_grad(set_to_none=True)
        judged = self.discriminator(varied(originals), labels).float()
        told = functional.binary_cross_entropy_with_logits(judged, torch.full_like(judged, ORIGINAL))
        # -log(1 - D(G(z))), of logits.
        lie = functional.softplus(self.discriminator(varied(generated), labels).float()).mean()
        (told + lie).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """Weights, the optimiser's state, and whose turn it is."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "steps": self._steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimiser.load_state_dict(state["optimiser"])
        self._steps = state["steps"]


class FrechetValidation:
    """Frechet distance of each class to its training pictures, and a contact sheet of what the generator makes.

    Args:
        pictures: Uint8 [N, 3, S, S], of the generator's size.
        labels: Int64 [N].
        features: In which pictures are compared.
        sheet: File of the contact sheet, overwritten each time: a row or two a class.
        count: Pictures to generate of each class.
    """

    def __init__(
        self, pictures: Tensor, labels: Tensor, features: PerceptualFeatures, sheet: Path, count: int
    ) -> None:
        self._features, self._sheet = features, sheet
        self._classes = int(labels.max()) + 1
        self._originals = [
            self._described(pictures[labels == label].float() / 255) for label in range(self._classes)
        ]
        random = torch.Generator().manual_seed(0)
        self._noise = torch.randn(self._classes * count, 1024, generator=random)
        self._labels = torch.arange(self._classes).repeat_interleave(count)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """``frechet``, the mean over classes, and ``nearness``, which is less it: higher is better."""
        where = next(model.parameters()).device
        latent = self._noise[:, : int(model.latent)].to(where)  # type: ignore[arg-type]
        parts = zip(torch.split(latent, 128), torch.split(self._labels.to(where), 128), strict=True)
        made = torch.cat([model(*part).float() for part in parts])
        distances = []
        rows = []
        for label, originals in enumerate(self._originals):
            of_class = made[self._labels.to(where) == label]
            distances.append(frechet_distance(originals, self._described(of_class)))
            rows.append(of_class[: 2 * SHOWN])
        write_sheet(self._sheet, torch.cat(rows), SHOWN)
        mean = float(np.mean(distances))
        return {"frechet": mean, "nearness": -mean}

    def _described(self, pictures: Tensor) -> Features:
        """Mean and deviation of all maps at three depths."""
        where = next(self._features.parameters()).device
        parts = []
        for part in torch.split(pictures, 128):
            maps = [values.float() for values in self._features(part.to(where).float())]
            described = [value for one in maps for value in (one.mean(dim=(2, 3)), one.std(dim=(2, 3)))]
            parts.append(torch.cat(described, dim=1).cpu())
        return torch.cat(parts).double().numpy()


def write_sheet(path: Path, pictures: Tensor, columns: int) -> None:
    """A contact sheet of float [N, 3, S, S], 0 to 1."""
    cells = [(one * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy() for one in pictures.clamp(0, 1)]
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    rows = [np.concatenate(cells[at : at + columns], axis=1) for at in range(0, len(cells), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.concatenate(rows)[:, :, ::-1])


def _latent(generator: nn.Module, count: int) -> Tensor:
    where = next(generator.parameters()).device
    return torch.randn(count, int(generator.latent), device=where)  # type: ignore[arg-type]


def find_data(data: Path, left_out: int | None = None) -> tuple[str, tuple[str, ...], list[Sample]]:
    """What the recipe's name ends in, the folder's diagnoses, and its training images, by its layout.

    Args:
        data: The folder.
        left_out: Source that is not trained on, of ISIC 2017.

    Raises:
        UsageError: If files are missing or hold an unknown diagnosis.
    """
    if ham10000.is_ham10000(data):
        return "_ham10000", ham10000.DIAGNOSES, ham10000.split_by_lesion(data)[0]
    samples = folds.all_samples(data, "train")
    return "", isic.DIAGNOSES, samples if left_out is None else folds.fold(samples, left_out)[0]


def train(options: RecipeOptions) -> Path:
    """Train on the ``train`` split of ``DATA``; returns the best checkpoint.

    Raises:
        UsageError: If data or weights are missing, or no diagnosis of the data is named.
    """
    _, diagnoses, _ = find_data(options.data_folder())
    if options.diagnosis not in diagnoses:
        raise UsageError(f"{NAME} learns one diagnosis: name it with --class, one of {', '.join(diagnoses)}")
    return train_classes(options, NAME, (options.diagnosis,))


def train_classes(options: RecipeOptions, recipe: str, classes: Sequence[str]) -> Path:
    """Train one generator of one class or several.

    Args:
        options: Folder, data, size, width, seed and time.
        recipe: Its name.
        classes: Diagnoses.

    Returns:
        Its best checkpoint.

    Raises:
        UsageError: If data or weights are missing, or there is no network of the size.
    """
    smoke, data = options.smoke, options.data_folder()
    ending, _, samples = find_data(data, options.leave_out)
    size = options.size or (32 if smoke else SIZE)
    hyper: dict[str, Any] = {"classes": tuple(classes), "size": size, "width": options.width_or(WIDTH, smoke=0.02)}
    torch.manual_seed(options.seed)
    try:
        generator = DcganGenerator(**hyper)
    except ValueError as error:
        raise UsageError(str(error)) from error
    discriminator = DcganDiscriminator(**hyper).to(device())
    pictures, labels = load_classes(samples, classes, round(size * MARGIN))
    features = PerceptualFeatures(MobileNetV2()) if smoke else imagenet_features(imagenet_weights(data))
    room = (pictures.shape[-1] - size) // 2
    middle = pictures[:, :, room : room + size, room : room + size]
    sheet = options.out / "samples.png"
    with torch.inference_mode():
        validation = FrechetValidation(middle, labels, features.to(device()), sheet, 8 if smoke else TRIED)
    drawing = Drawing(Principal(middle, labels, generator.latent, device()))
    each = max((4 if smoke else BATCH) // len(classes), 4)
    batches = ByClass(pictures, labels, size, each=each, steps=3 if smoke else STEPS)
    limits = options.limits(MINUTES, PATIENCE)

    def phase(loss: Drawing | DcganAdversary, optimiser: torch.optim.Optimizer, share: float, out: Path) -> Path:
        """One fit; its share of the minutes and epochs, and its best checkpoint."""
        minutes, epochs = limits["minutes"], limits["epochs"]
        bounds = {
            "minutes": minutes and minutes * share,
            "epochs": epochs and max(round(epochs * share), 1),
            "init": options.init if isinstance(loss, Drawing) else None,
        }
        return fit(
            generator,
            loss,
            batches,
            validation,
            run=TrainingRun(
                f"{recipe}{ending}", checkpoint.name_of(DcganGenerator), hyper, out, best_by="nearness"
            ),
            optimiser=optimiser,
            validate_every=1 if smoke else 5,
            ema_decay=0.99,
            companion=loss if isinstance(loss, DcganAdversary) else None,
            **limits | bounds,
        ).best

    alone = torch.optim.Adam(generator.parameters(), lr=DRAWING_RATE, betas=BETAS)
    learnt = phase(drawing, alone, DRAWING_SHARE, options.out / "drawing")
    generator.load_state_dict(checkpoint.load(learnt).state)
    optimiser = torch.optim.Adam(generator.parameters(), lr=RATE, betas=BETAS)
    return phase(DcganAdversary(discriminator, optimiser, drawing), optimiser, 1 - DRAWING_SHARE, options.out)
