"""The catalogue of discovered patterns: one HTML file, with its pictures inside, the same for the same input."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from lesionnets.data.sources.isic import Image, Sample
from lesionnets.evaluation.discovery.clusters import Agreement, Clusters
from lesionnets.evaluation.discovery.described import Described, Floats
from lesionnets.evaluation.segment import read_picture

REGIONS = 6
"""Number of regions shown of each pattern, each from another picture."""
TILE = 112
"""Side of a region's picture in pixels."""
AROUND = 3.0
"""Side of what is shown as a multiple of a place's side, because its surroundings tell what it is."""

_QUALITY = 85
_LINE = (255, 255, 255)


@dataclass(frozen=True)
class Region:
    """A place where a pattern is strongest.

    Attributes:
        image_id: Id of the picture.
        diagnosis: Its diagnosis, or the one that the network finds most probable.
        near: Cosine with the pattern's centre.
        picture: The place and its surroundings, as a data URI.
    """

    image_id: str
    diagnosis: str
    near: float
    picture: str


@dataclass(frozen=True)
class Pattern:
    """A pattern.

    Attributes:
        number: Number of the pattern, from 1.
        share: Share of all lesions' places.
        pictures: Number of pictures that have it.
        by_diagnosis: Mean share of a lesion, by diagnosis.
        adds: What it adds to each logit in a picture that has it, minus the mean over the classes.
        overlaps: Jaccard index with its match among each other network's patterns.
        regions: Regions where it is strongest.
    """

    number: int
    share: float
    pictures: int
    by_diagnosis: dict[str, float]
    adds: dict[str, float]
    overlaps: list[float]
    regions: list[Region]

    @property
    def overlap(self) -> float | None:
        """Mean over the other networks; None without others."""
        return float(np.mean(self.overlaps)) if self.overlaps else None


@dataclass(frozen=True)
class Catalogue:
    """All patterns of a network.

    Attributes:
        title: What it is of.
        classes: The network's diagnoses.
        told: Whether diagnoses are those of the labels; if not, they are the network's guesses.
        images: Number of pictures.
        groups: Diagnoses of the pictures, with the number of pictures of each.
        entries: The patterns, the most frequent first.
        beyond: What places outside the lesion add to each logit, mean over the pictures.
        agreements: Agreement with each other network.
        again: Agreement of the same network's clusters from other first centres, which shows what clustering alone
            changes.
    """

    title: str
    classes: Sequence[str]
    told: bool
    images: int
    groups: dict[str, int]
    entries: list[Pattern]
    beyond: dict[str, float]
    agreements: Sequence[Agreement]
    again: Agreement

    def html(self) -> str:
        """The catalogue as one file."""
        found = Environment(
            loader=PackageLoader("lesionnets.evaluation.discovery"), autoescape=True, undefined=StrictUndefined
        )
        return found.get_template("catalogue.html.j2").render(catalogue=self)

    def figures(self) -> dict[str, object]:
        """The same without pictures."""
        rows = [
            {name: value for name, value in vars(entry).items() if name != "regions"}
            | {"regions": [[region.image_id, round(region.near, 4)] for region in entry.regions]}
            for entry in self.entries
        ]
        agreements = [
            {"overlap": one.overlap, "chance": one.chance, "information": one.information}
            for one in (*self.agreements, self.again)
        ]
        return {
            "title": self.title,
            "images": self.images,
            "groups": self.groups,
            "diagnoses_are_labels": self.told,
            "patterns": rows,
            "beyond": self.beyond,
            "agreement": agreements[:-1],
            "agreement_of_clustering_again": agreements[-1],
        }


def catalogue(
    title: str,
    samples: Sequence[Sample],
    described: Described,
    patterns: Clusters,
    agreements: Sequence[Agreement],
    classes: Sequence[str],
    *,
    again: Agreement,
) -> Catalogue:
    """Make the catalogue of a network's patterns.

    Args:
        title: What it is of.
        samples: The pictures; diagnoses are those of the labels if all have one.
        described: The pictures as the network describes them.
        patterns: The patterns found among their places.
        agreements: Agreement with the patterns of other networks.
        classes: Names of the network's diagnoses.
        again: Agreement with the same network's clusters from another start.

    Raises:
        UsageError: If a picture cannot be read.
    """
    told = all(sample.diagnosis for sample in samples)
    names = [
        str(sample.diagnosis) if told else classes[int(guess)]
        for sample, guess in zip(samples, described.likeliest, strict=True)
    ]
    groups = {name: names.count(name) for name in sorted(set(names))}
    shares, adds = patterns.shares(), patterns.adds(described)
    entries = [
        Pattern(
            number=pattern + 1,
            share=float((patterns.assigned == pattern).sum() / (patterns.assigned >= 0).sum()),
            pictures=int((shares[:, pattern] > 0).sum()),
            by_diagnosis={name: float(shares[[one == name for one in names], pattern].mean()) for name in groups},
            adds=_named(adds[shares[:, pattern] > 0, pattern].mean(axis=0), classes),
            overlaps=[float(one.overlaps[pattern]) for one in agreements],
            regions=_regions(samples, names, described, patterns, pattern),
        )
        for pattern in range(len(patterns.centres))
    ]
    beyond = _named(adds[:, -1].mean(axis=0), classes)
    return Catalogue(title, classes, told, len(samples), groups, entries, beyond, agreements, again)


def _named(values: Floats, classes: Sequence[str]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(classes, values, strict=True)}


def _regions(
    samples: Sequence[Sample], names: Sequence[str], described: Described, patterns: Clusters, pattern: int
) -> list[Region]:
    """Where a pattern is strongest: the nearest place of each picture, and the nearest of these."""
    near = np.where(patterns.assigned == pattern, patterns.near, -np.inf)
    places, best = near.argmax(axis=1), near.max(axis=1)
    order = [int(row) for row in np.argsort(-best, kind="stable")[:REGIONS] if np.isfinite(best[row])]
    return [
        Region(
            samples[row].image_id,
            names[row],
            float(best[row]),
            _picture(read_picture(samples[row]), described.squares[row], int(places[row]), described.side),
        )
        for row in order
    ]


def _picture(image: Image, square: Floats, place: int, side: int) -> str:
    """A place with its surroundings, outlined; beyond the picture its edge is repeated."""
    height, width = image.shape[:2]
    row, column = divmod(place, side)
    step = float(square[2]) / side
    middle = [
        float(square[axis]) * length + ((at + 0.5) / side - 0.5) * float(square[2])
        for axis, (at, length) in enumerate(((row, height), (column, width)))
    ]
    scale = AROUND * step / TILE
    shift = [one - scale * (TILE - 1) / 2 - 0.5 for one in middle]
    warp = np.array(((scale, 0, shift[1]), (0, scale, shift[0])), np.float64)
    way = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(image, warp, (TILE, TILE), flags=way, borderMode=cv2.BORDER_REPLICATE)
    edge = round(TILE * (1 - 1 / AROUND) / 2)
    cv2.rectangle(cut, (edge, edge), (TILE - 1 - edge, TILE - 1 - edge), _LINE, 1)
    coded = cv2.imencode(".jpg", cut[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(coded.tobytes()).decode()}"


def write(found: Catalogue, folder: Path, figures: str) -> Path:
    """``patterns.html`` and ``patterns.json`` in a folder; returns the first."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "patterns.html"
    page.write_text(found.html(), encoding="utf-8")
    (folder / "patterns.json").write_text(figures, encoding="utf-8")
    return page
