"""x4 super-resolution of lesion regions by SRGAN: SkinSegmentSRGAN, section 3.3; Ledig et al., CVPR 2017.

Two phases, as in Ledig et al., section 3.2. First the generator learns the picture with L1 alone. Then it plays
against the discriminator: content loss plus a thousandth of the adversarial loss. The content is compared in
features of MobileNetV2, which stand in for VGG19's. They lie at an eighth of the resolution and hardly mind a
shift of colour, so the L1 loss stays on in the second phase and holds the picture in its place.

An adversarial network looks better and measures worse (Ledig et al., table 2), so the second phase keeps what is
nearest to the originals in the features, not in PSNR; its PSNR is reported anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lesionnets import checkpoint
from lesionnets.data.batches.patches import PatchPairs, to_tensor
from lesionnets.data.degradations import Degradation, degrade, own_random
from lesionnets.data.sources.isic import Image
from lesionnets.evaluation import enhance as measuring
from lesionnets.losses.adversarial import discriminator_loss, generator_loss
from lesionnets.losses.perceptual import (
    CONTENT_TAPS,
    TAPS,
    PerceptualFeatures,
    imagenet_features,
    perceptual_distance,
)
from lesionnets.nets.classify.mobilenet import MobileNetV2
from lesionnets.nets.enhance.srgan import SrganDiscriminator, SrganGenerator
from lesionnets.nets.tflite import imagenet_weights
from lesionnets.recipes.enhance import enhance_espcn
from lesionnets.training import RecipeOptions, TrainingRun, device, fit

NAME = "enhance_srgan"
MINUTES = 25.0
PATIENCE = 8
WIDTH = 0.5
"""Of the generator, on a CPU; the discriminator, which costs more, has its square: both are 1 at the paper's."""
CONTENT_SHARE = 0.6
"""Of the time, for the first phase."""
BATCH, PATCH, STEPS = 8, 24, 50
RATE = 1e-3
"""Of the first phase, at its peak. The paper's 1e-4 is for a hundred epochs on a GPU."""
ADVERSARIAL_RATE = 1e-4
"""The paper's, with its beta1 of 0.9."""
CONTENT_SCALE = 0.006
"""Brings features to the size of pixels, as in Ledig et al., section 3.2."""


def pixel_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean absolute error: the first phase's loss."""
    small, truth = batch
    error: Tensor = (model(small).float() - truth).abs().mean()
    return error


class SrganAdversary:
    """The discriminator and how it learns; one step of it for one of the generator's.

    Args:
        discriminator: On the device that training runs on.
        features: Features of the content loss, with the generator's pictures in float [N, 3, H, W].
    """

    def __init__(self, discriminator: SrganDiscriminator, features: PerceptualFeatures) -> None:
        self.discriminator = discriminator
        self.features = features
        self.optimiser = torch.optim.Adam(discriminator.parameters(), lr=ADVERSARIAL_RATE)

    def __call__(self, generator: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Teach the discriminator one step, and return what the generator pays."""
        small, truth = batch
        enhanced = generator(small).float()
        self.discriminator.train().requires_grad_(requires_grad=True)
        self.optimiser.zero_grad(set_to_none=True)
        judged = discriminator_loss(self.discriminator(truth), self.discriminator(enhanced.detach()))
        judged.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.discriminator.requires_grad_(requires_grad=False)
        paid = generator_loss(enhanced, truth, self.discriminator(enhanced), self._scaled)
        return torch.add((enhanced - truth).abs().mean(), paid)

    def _scaled(self, picture: Tensor) -> Sequence[Tensor]:
        return [values.float() * CONTENT_SCALE**0.5 for values in self.features(picture)]

    def state_dict(self) -> dict[str, Any]:
        """Weights and the optimiser's state."""
        return {"discriminator": self.discriminator.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimiser.load_state_dict(state["optimiser"])


class PerceptualValidation:
    """As :class:`enhance_espcn.PsnrValidation`, and how near to the originals in features, against bicubic's.

    Args:
        crops: Lesion regions.
        features: Three depths, as :func:`lesionnets.losses.perceptual.perceptual_distance` takes them.
    """

    def __init__(self, crops: Sequence[Image], features: PerceptualFeatures) -> None:
        self._pixels = enhance_espcn.PsnrValidation(crops)
        self._features = features
        whole = [crop[: len(crop) // 4 * 4, : crop.shape[1] // 4 * 4] for crop in crops]
        self._pairs = [(degrade(crop, Degradation.CLINICAL, own_random(crop)), crop) for crop in whole]

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """See the class; ``perceptual_gain`` is the share of bicubic's distance that is gone."""
        ours = [self._distance(enhance_espcn.enhance(model, small), truth) for small, truth in self._pairs]
        bicubic = [self._distance(measuring.bicubic(small), truth) for small, truth in self._pairs]
        return self._pixels(model) | {"perceptual_gain": 1 - sum(ours) / sum(bicubic)}

    def _distance(self, picture: Image, truth: Image) -> float:
        where = next(self._features.parameters()).device
        one, other = (to_tensor(image[None].copy()).to(where) for image in (picture, truth))
        return float(perceptual_distance(self._features, one, other))


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    ImageNet weights are looked for in ``DATA/../weights``; ``--smoke`` does without. The first phase has a folder
    of its own, ``content``, in the run's.

    Raises:
        UsageError: If the data folder, its parts or the weights are missing.
    """
    smoke, data = options.smoke, options.data_folder()
    patch = 8 if smoke else PATCH
    images, crops = enhance_espcn.load_crops(data, patch=patch, smoke=smoke)
    content, perceptual = (
        _features(None if smoke else imagenet_weights(data), taps) for taps in (CONTENT_TAPS, TAPS)
    )
    hyper: dict[str, Any] = {"width": options.width_or(WIDTH), "blocks": 1 if smoke else 16}
    torch.manual_seed(options.seed)
    generator = SrganGenerator(**hyper)
    adversary = SrganAdversary(SrganDiscriminator(hyper["width"] ** 2).to(device()), content)
    pairs = PatchPairs(images, patch=patch, batch_size=BATCH, steps=2 if smoke else STEPS)
    minutes = None if smoke else options.minutes or MINUTES
    # Thinned: four of five regions would cost more time than they tell.
    validation = PerceptualValidation(crops if smoke else crops[::5], perceptual)

    def phase(name: str, loss: Any, share: float, *, rate: float, best_by: str) -> Path:
        out = options.out / "content" if name == "content" else options.out
        return fit(
            generator,
            loss,
            pairs,
            validation,
            run=TrainingRun(NAME, "srgan.SrganGenerator", hyper, out, best_by=best_by),
            optimiser=torch.optim.Adam(generator.parameters(), lr=rate, betas=(0.9, 0.999)),
            epochs=1 if smoke else None,
            minutes=minutes * share if minutes else None,
            validate_every=8,
            patience=options.patience or PATIENCE,
            ema_decay=0.99,
            seed=options.seed,
            resume=options.resume,
            companion=adversary if loss is adversary else None,
        ).best

    learnt = phase("content", pixel_loss, CONTENT_SHARE, rate=RATE, best_by="score")
    generator.load_state_dict(checkpoint.load(learnt, recipe=NAME).state)
    return phase("adversarial", adversary, 1 - CONTENT_SHARE, rate=ADVERSARIAL_RATE, best_by="perceptual_gain")


def _features(weights: Path | None, taps: Sequence[int]) -> PerceptualFeatures:
    found = imagenet_features(weights, taps) if weights else PerceptualFeatures(MobileNetV2(), taps)
    return found.to(device())
