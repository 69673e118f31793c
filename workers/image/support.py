"""What a one-shot segment model is shown: prototypes of a support set, computed once by a worker process."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from dermbatch import layout
from dermbatch.errors import ArtifactDamaged, ModelContractError, ObjectNotFound, SupportGone
from dermbatch.images.fitting import LONG_SIDE, fit, sent_size
from dermbatch.models.contracts import SUPPORT_MODEL
from dermbatch.models.served import ServedModel
from dermbatch.records.asked import ModelChoice, SupportChoice
from dermbatch.store import ObjectStore
from dermbatch.stored import read
from dermbatch.supports.kept import Pixels, pictures
from dermbatch.supports.record import SupportSet
from workers.inference.protocol import Inference

Prototypes = NDArray[np.float32]

_MOST = 16
_known: dict[tuple[str, str], Prototypes] = {}
_knowing = threading.Lock()


def check(model: ServedModel, chosen: SupportChoice | None) -> None:
    """Refuse a model that needs a support and gets none, or the reverse.

    Raises:
        ModelContractError: If that is so.
    """
    if model.takes_support and chosen is None:
        raise ModelContractError(f"model {model.name} needs a support: name one with --support NAME")
    if chosen is not None and not model.takes_support:
        raise ModelContractError(
            f"model {model.name} takes no support, but {chosen.name} was given; leave out --support"
        )


def prototypes(chosen: SupportChoice, model: ServedModel, client: Inference, store: ObjectStore) -> Prototypes:
    """The mean of the prototypes of a support's pictures, float32 [P].

    Args:
        chosen: The support.
        model: The model that is shown it; it names the one that makes its prototypes.
        client: Runs the models.
        store: Where the support lies.

    Raises:
        SupportGone: If it was removed, or has changed since it was chosen.
        ModelContractError: If the model for it is missing or breaks its contract.
        StoreUnavailable, StoreRefused, InferenceUnavailable: Where trying again may help.
    """
    key = chosen.sha256, model.sha256
    with _knowing:
        if key not in _known:
            while len(_known) >= _MOST:
                del _known[next(iter(_known))]
            _known[key] = _made(chosen, model, client, store)
        return _known[key]


def _made(chosen: SupportChoice, model: ServedModel, client: Inference, store: ObjectStore) -> Prototypes:
    try:
        found = read(store, layout.support(chosen.name, chosen.version), SupportSet)
        shots = [pictures(store, chosen.name, shot) for shot in found.shots]
    except (ObjectNotFound, ArtifactDamaged, ValueError) as error:
        raise SupportGone(
            f"support {chosen.name} version {chosen.version} was removed or is damaged; add it "
            f"again, and submit the images again"
        ) from error
    if found.sha256 != chosen.sha256:
        raise SupportGone(
            f"support {chosen.name} version {chosen.version} has changed since the batch was submitted; submit "
            f"the images again"
        )
    name = model.parameters.get(SUPPORT_MODEL)
    if name is None:
        raise model.broken(
            f"does not say which model makes its prototypes: give it the parameter {SUPPORT_MODEL!r}"
        )
    encoder = client.model(None, ModelChoice(name=name, version=model.version))
    each = [_encoded(image, mask, encoder, client) for image, mask in shots]
    found_mean: Prototypes = np.mean(each, axis=0, dtype=np.float32)
    return model_sized(found_mean, model)


def model_sized(made: Prototypes, model: ServedModel) -> Prototypes:
    """The prototypes, if they have as many numbers as the model takes.

    Raises:
        ModelContractError: If they are more or fewer.
    """
    (wanted,) = model.shapes["PROTOTYPES"]
    if wanted not in (-1, len(made)):
        raise model.broken(f"takes {wanted} numbers of a support, but the model next to it makes {len(made)}")
    return made


def _encoded(image: Pixels, mask: Pixels, encoder: ServedModel, client: Inference) -> Prototypes:
    long_side = int(encoder.number("long_side", LONG_SIDE))
    size = sent_size(encoder.image_size, mask.shape[0], mask.shape[1], long_side)
    drawn = np.where(fit(mask, size) > 127, np.uint8(255), np.uint8(0))
    if not drawn.any():  # a lesion of a few pixels must not vanish
        drawn = np.where(fit(mask, size) > 0, np.uint8(255), np.uint8(0))
    answer = client.infer(encoder, {"IMAGE": fit(image, size), "MASK": drawn}, ("PROTOTYPES",))["PROTOTYPES"]
    if answer.ndim != 1 or not np.isfinite(answer).all():
        raise encoder.broken(f"answered PROTOTYPES of shape {list(answer.shape)}, or not all finite")
    return np.asarray(answer, np.float32)
