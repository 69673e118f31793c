"""Which pictures a classifier takes for dermoscopic ones; fitted after training, on dermoscopic pictures.

Of five batches, one is seen as it is and two as training sees them (turned, in other light, through hair, coarse).
Two are also grey, badly exposed or seen through a tube more often, because such pictures must not lose their
diagnoses; if all were seen in this way, usual pictures would differ so much that screens pass for them. Drawn
phantoms are among the pictures, because people try the system with them. Limits are the largest distances of
held-out pictures, purified and segmented as in service. Nothing is learned from unusual pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from dermbatch.errors import UsageError
from dermbatch.images.fitting import LONG_SIDE, sent_size
from dermbatch.images.fitting import fit as fit_to
from dermbatch.phantoms.phantom import phantom
from dermbatch.stages import Stage
from lesionnets import checkpoint
from lesionnets.data import looks
from lesionnets.data.batches.in_memory import Album, hair_layers, squares_of
from lesionnets.data.batches.looked_at import LookedAt, Looks, plain_views
from lesionnets.data.sources.isic import Sample, read_image
from lesionnets.evaluation.classify import lesion_of
from lesionnets.evaluation.models.predictors import default_model, load_model
from lesionnets.evaluation.segment import read_picture
from lesionnets.graphs.classify import ClassifyGraph
from lesionnets.nets.classify.classifier import Classifier

MARGIN = 9 / 7
"""Side of pictures in memory as a multiple of the network's input."""
BATCH = 32
VARIED = Looks(layers=False, scales=False, balance=0)
PHANTOMS = 0.1
"""Number of drawn pictures for each real one."""


def fit(path: Path, pictures: Sequence[Sample], held_out: Sequence[Sample], *, seed: int = 0) -> None:
    """Fit what is usual to a classifier and write it into its checkpoint; nothing else of it changes.

    Args:
        path: Checkpoint of a network that can have ``usual``; it is rewritten.
        pictures: Usual ones.
        held_out: Usual pictures that the network was not trained on, for the limits.
        seed: Seed of what is drawn at random.

    Raises:
        UsageError: If the network cannot judge, there are too few pictures, or one cannot be read.
    """
    trained = checkpoint.load(path)
    hyper = trained.hyper | {"judges": True}
    cannot = UsageError(
        f"{path} holds a {trained.network}, which cannot tell unusual pictures; train classify_lite"
    )
    try:
        network = checkpoint.network(trained.network, hyper)
    except UsageError as error:  # it does not know what it is to judge
        raise cannot from error
    if not isinstance(network, Classifier) or network.usual is None:
        raise cannot
    needed = network.usual.directions.shape[1]
    if len(pictures) < needed:
        raise UsageError(
            f"{len(pictures)} usual pictures are too few: {needed} at least, and thousands are better"
        )
    network.load_state_dict(trained.state, strict=False)
    network.eval()
    torch.manual_seed(seed)
    found = traits(network, pictures, seed)
    network.usual.fit(found, served_traits(network, held_out))
    checkpoint.save(
        path,
        recipe=trained.recipe,
        network=trained.network,
        hyper=hyper,
        state=network.state_dict(),
        figures=trained.figures,
    )


@torch.inference_mode()
def traits(network: Classifier, samples: Sequence[Sample], seed: int) -> Tensor:
    """A network's traits of a view of each picture, and of phantoms: float [N, F]."""
    album = whole_pictures(samples, phantoms=round(PHANTOMS * len(samples)), size=network.size)
    layers = hair_layers(network.size, seed)
    mixed = torch.split(torch.randperm(len(album)), BATCH)
    views = (view(album.of(chosen), number, network.size, layers) for number, chosen in enumerate(mixed))
    return torch.cat([network.look(*each)[-1].float() for each in views])


def view(album: Album, number: int, size: int, layers: Tensor) -> tuple[Tensor, Tensor]:
    """Whole pictures and masks as other cameras take them; the batch's number decides how much changes."""
    if number % 5 == 0:
        return plain_views(album, size, 1.0)
    images, masks, _ = LookedAt(album, size, BATCH, VARIED).view(album)
    images = looks.dark_corners(looks.overlaid(images, layers))[0]
    if number % 5 > 2:
        images = looks.dark_corners(looks.exposed(looks.greyed(images)))[0]
    return images, masks


@torch.inference_mode()
def served_traits(network: Classifier, samples: Sequence[Sample]) -> Tensor:
    """A network's traits of pictures, purified and segmented as a worker does with what ships: float [N, F]."""
    purifier, segmenter = (load_model(default_model(stage), stage) for stage in (Stage.PURIFY, Stage.SEGMENT))
    graph, found, long_side = ClassifyGraph(network).eval(), [], network.long_side or LONG_SIDE
    assert network.usual is not None  # noqa: S101 - for the type checker: fit has looked
    hook = network.usual.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    for sample in samples:
        image = purifier(IMAGE=purifier.fitted(read_picture(sample), native=False))["PURIFIED"]
        lesion = lesion_of(replace(sample, mask=None), image, segmenter, native=False)
        height, width = image.shape[:2]
        size = sent_size((-1, -1), height, width, long_side)
        graph(*(torch.from_numpy(fit_to(value, size))[None] for value in (image, lesion)))
    hook.remove()
    return torch.cat(found)


def whole_pictures(samples: Sequence[Sample], *, phantoms: int, size: int) -> Album:
    """Whole pictures without masks, and phantoms, a little larger than the network's input."""
    side = round(size * MARGIN)
    drawn = (phantom(number, height=side, width=side * 4 // 3).image for number in range(phantoms))
    read = [read_image(sample.image, side) for sample in samples]
    read += [
        np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8) for image in drawn
    ]
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in read])
    masks = torch.zeros(len(images), 1, side, side, dtype=torch.uint8)
    none = torch.zeros(len(images), dtype=torch.int64)
    return Album(images, masks, squares_of(masks), none, none)
