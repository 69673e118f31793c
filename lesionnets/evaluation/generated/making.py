"""Pictures of a generator: drawn, checked for copies, written, and permanently marked as generated.

A picture's file says so in its metadata (:mod:`dermbatch.images.formats.origin`; a result's record then has the
note ``synthetic``) and in its name, and ``manifest.json`` says so for all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from dermbatch.errors import UsageError
from dermbatch.images.formats.origin import XMP_SYNTHETIC
from dermbatch.models.repository import file_digest
from lesionnets import checkpoint
from lesionnets.data.sources.isic import Image, Sample, read_image
from lesionnets.evaluation.generated.duplicates import (
    EmbeddingFile,
    Floats,
    embeddings,
    nearest_by_embedding,
    nearest_by_error,
    threshold,
    write_histogram,
)
from lesionnets.nets.generate.dcgan import DcganGenerator

BATCH = 64
TRIES = 4
"""Largest number of pictures drawn for each that is wanted, because some are refused."""
COLUMNS = 8
SHEET = 64
"""Largest number of pictures in the contact sheet."""


@dataclass(frozen=True)
class Making:
    """What to make.

    Attributes:
        network: The generator, from :func:`load_generator`.
        weights: Its checkpoint.
        diagnosis: The diagnosis of the pictures.
        count: Number of pictures.
        seed: Seed of the latent vectors.
    """

    network: DcganGenerator
    weights: Path
    diagnosis: str
    count: int
    seed: int


class TrainingPictures:
    """The training pictures of a diagnosis, and how near they are to each other.

    Args:
        samples: At least two pictures of the diagnosis.
        originals: Computes their embeddings, at the size of the generated pictures.

    Raises:
        UsageError: If a picture cannot be read, or there are fewer than two.
    """

    def __init__(self, samples: Sequence[Sample], originals: EmbeddingFile) -> None:
        if len(samples) < 2:
            raise UsageError(
                "copies are judged by how near training pictures are to each other, so at least two are needed"
            )
        self.ids = [sample.image_id for sample in samples]
        self.pictures = [read_image(sample.image, originals.size) for sample in samples]
        self.model = originals.model
        self.embeddings = originals(samples)
        self.errors = nearest_by_error(self.pictures, self.pictures, same=True)
        self.distances = nearest_by_embedding(self.embeddings, self.embeddings, same=True)
        self.least_error = threshold(self.errors)
        self.least_distance = threshold(self.distances)

    def judge(self, pictures: Sequence[Image]) -> list[dict[str, object]]:
        """For each, the nearest training picture by both measures, and whether it is a ``copy`` of it."""
        errors = nearest_by_error(pictures, self.pictures)
        distances = nearest_by_embedding(embeddings(self.model, pictures), self.embeddings)
        return [
            {
                "mse": round(float(error), 6),
                "nearest_by_mse": self.ids[one],
                "embedding_distance": round(float(distance), 6),
                "nearest_by_embedding": self.ids[other],
                "copy": bool(error < self.least_error or distance < self.least_distance),
            }
            for error, one, distance, other in zip(
                errors.distances, errors.which, distances.distances, distances.which, strict=True
            )
        ]


def load_generator(path: Path, diagnosis: str) -> DcganGenerator:
    """Load a generator of a diagnosis, in evaluation mode.

    Raises:
        UsageError: If the checkpoint cannot be read, is not a generator's, or does not know the diagnosis.
    """
    network = checkpoint.load(path).build()
    if not isinstance(network, DcganGenerator):
        raise UsageError(f"{path} is not a generator's checkpoint; `lesionnets train generate_dcgan` makes one")
    if diagnosis not in network.classes:
        raise UsageError(f"{path} generates {', '.join(network.classes)}, not {diagnosis}")
    return network


def drawn(network: DcganGenerator, diagnosis: str, seed: int) -> Iterator[Image]:
    """An endless sequence of pictures uint8 [S, S, 3], the same for the same seed."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.full((BATCH,), network.classes.index(diagnosis))
    while True:
        with torch.inference_mode():
            made = network(torch.randn(BATCH, network.latent, generator=random), labels)
        for picture in (made.float().clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).numpy():
            yield np.ascontiguousarray(picture)


def make(making: Making, out: Path, known: TrainingPictures | None) -> dict[str, object]:
    """Write pictures, ``manifest.json``, ``sheet.png`` and, if they were compared, two histograms.

    Args:
        making: What to make.
        out: Folder to write into; created if missing.
        known: The training pictures; without them nothing is compared, and the manifest says so.

    Returns:
        The manifest.

    Raises:
        UsageError: If the folder holds a manifest already, or too many pictures are copies.
    """
    if (out / "manifest.json").exists():
        raise UsageError(f"{out} holds generated pictures already: name another folder, or delete it")
    source = drawn(making.network, making.diagnosis, making.seed)
    out.mkdir(parents=True, exist_ok=True)
    kept: list[dict[str, object]] = []
    refused: list[dict[str, object]] = []
    shown: list[Image] = []
    for start in range(0, TRIES * making.count, BATCH):
        pictures = [next(source) for _ in range(BATCH)]
        judged: list[dict[str, object]] = [{"copy": None} for _ in pictures]
        if known:
            judged = known.judge(pictures)
        for number, (picture, told) in enumerate(zip(pictures, judged, strict=True), start):
            if len(kept) == making.count:
                break
            row: dict[str, object] = {"number": number, **told}
            if told["copy"]:
                refused.append(row)
                continue
            name = f"synthetic_{making.diagnosis}_{making.seed}_{number:05d}.png"
            body = _write(out / name, picture, making.diagnosis)
            kept.append({"file": name, "sha256": hashlib.sha256(body).hexdigest(), **row})
            shown.append(picture)
        if len(kept) == making.count:
            break
    manifest: dict[str, object] = {
        "synthetic": True,
        "shows": "no patient: a network made these pictures up",
        "diagnosis": making.diagnosis,
        "seed": making.seed,
        "weights_sha256": file_digest(making.weights),
        "compared": _compared(known),
        "images": kept,
        "refused": refused,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1))
    if len(kept) < making.count:
        raise UsageError(
            f"{len(refused)} of {len(refused) + len(kept)} pictures are nearly copies of training pictures: "
            "this generator has memorised them; train it again for a shorter time, or on more pictures"
        )
    cv2.imwrite(str(out / "sheet.png"), sheet(shown[:SHEET])[:, :, ::-1])
    if known:
        _write_histograms(out, kept + refused, known)
    return manifest


def sheet(pictures: Sequence[Image]) -> Image:
    """A contact sheet with eight pictures in a row."""
    cells = [*pictures, *[np.zeros_like(pictures[0])] * (-len(pictures) % COLUMNS)]
    rows = [np.concatenate(cells[at : at + COLUMNS], axis=1) for at in range(0, len(cells), COLUMNS)]
    return np.concatenate(rows)


def _compared(known: TrainingPictures | None) -> dict[str, object] | None:
    if known is None:
        return None
    return {
        "with": len(known.ids),
        "refused_below_mse": round(known.least_error, 6),
        "refused_below_embedding_distance": round(known.least_distance, 6),
    }


def _write(path: Path, picture: Image, diagnosis: str) -> bytes:
    """Write a PNG file that says that it is generated; returns its bytes."""
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP_SYNTHETIC)
    info.add_text("Description", f"Synthetic: a network made this picture of {diagnosis} up; it shows no patient")
    info.add_text("Software", "lesionnets generate")
    Pillow.fromarray(picture).save(path, pnginfo=info)
    return path.read_bytes()


def _write_histograms(out: Path, rows: Sequence[dict[str, object]], known: TrainingPictures) -> None:
    def of(name: str) -> Floats:
        return np.array([row[name] for row in rows], np.float64)

    title = "nearest training picture, {}: generated blue, training pictures grey"
    write_histogram(
        out / "histogram_mse.png", of("mse"), known.errors.distances, known.least_error, title.format("MSE")
    )
    write_histogram(
        out / "histogram_embedding.png",
        of("embedding_distance"),
        known.distances.distances,
        known.least_distance,
        title.format("embedding"),
    )
