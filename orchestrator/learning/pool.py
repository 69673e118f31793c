"""The images that can be chosen for review: those of closed batches that nobody has read or planned yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.review.choosing import Candidates, Floats, divergence
from dermbatch.review.plans import plan_names, plan_of
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import named
from orchestrator.reporting.table.columns import truths
from orchestrator.similar.cases import directed, embeddings_of, tables
from orchestrator.similar.growing import closed

MOST = 20_000
"""Most images that are considered, drawn at random if there are more: this limits memory (to some 0.1 GB)."""

_INDEX_BITS = 40  # bytes of the number that identifies an image: batch and index
_PREFIX = "probability_"
_READ = ("index", "sha256", "outcome", "lesion", "flags", "classify_sha256")


@dataclass(frozen=True)
class Pool:
    """What can be chosen.

    Attributes:
        tenant: Whose.
        images: Batch, index and digest of each candidate.
        candidates: The same as numbers.
        left_out: How many images cannot be chosen, by reason.
    """

    tenant: str
    images: list[tuple[str, int, str]]
    candidates: Candidates
    left_out: dict[str, int]


def pool(store: ObjectStore, batches: Sequence[str], tenant: str, random: np.random.Generator) -> Pool:
    """The images that can be chosen.

    Args:
        store: Where they are.
        batches: Of these alone; of all closed ones of the tenant where none is named.
        tenant: Whose.
        random: Draws, where there are too many.

    Raises:
        UsageError: If a batch that is named is not there, not closed, or another tenant's, or nothing is left.
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    names = _named(store, batches, tenant)
    parts = [part for name in names for part in _rows(store, name)]
    if not parts:
        raise UsageError("the batches have no table, so there is nothing to choose from")
    rows = pa.concat_tables(parts, promote_options="default")
    read = {(name, index) for name in names for index in _decided(store, name)}
    planned = list(_plans(store, tenant))
    usable, left_out = _usable(rows, read, {sha256 for _, _, sha256 in planned})
    chosen = rows.take(pa.array(np.sort(random.permutation(usable)[:MOST])))
    embeddings, directed_ones = _embeddings(store, chosen)
    if undirected := len(chosen) - len(directed_ones):
        left_out["no_direction"] = undirected
        chosen = chosen.take(pa.array(directed_ones, pa.int64()))
    if not len(chosen):
        why = ", ".join(f"{count} {word}" for word, count in left_out.items()) or "no image was classified: run "
        "the classify stage"
        raise UsageError(f"no image is left to choose from: {why}")
    known, _ = _embeddings(store, _known(rows, read | {(batch, index) for batch, index, _ in planned}))
    candidates = Candidates(embeddings, _shares(chosen), _disagreement(rows, chosen), known)
    images = list(zip(*(chosen[name].to_pylist() for name in ("batch", "index", "sha256")), strict=True))
    return Pool(tenant, images, candidates, left_out)


def _named(store: ObjectStore, batches: Sequence[str], tenant: str) -> list[str]:
    there = sorted(name for name, _, _ in closed(store, {}))
    for name in batches:
        if named(store, name).order.tenant != tenant:
            raise UsageError(f"there is no batch {name!r} of tenant {tenant!r}")
        if name not in there:
            raise UsageError(f"batch {name!r} is not closed yet: wait until it is")
    found = list(dict.fromkeys(batches)) or [name for name in there if named(store, name).order.tenant == tenant]
    if not found:
        raise UsageError("there is no closed batch to choose from")
    return found


def _rows(store: ObjectStore, batch: str) -> Iterator[pa.Table]:
    """What a batch's table says of each image, except for its embedding."""
    for body in tables(store, batch):
        file = pq.ParquetFile(BytesIO(body))
        labels = [name for name in file.schema_arrow.names if name.startswith(_PREFIX)]
        found = file.read(columns=[*_READ, *labels])
        yield found.append_column("batch", pa.array([batch] * len(found), pa.string()))


def _decided(store: ObjectStore, batch: str) -> set[int]:
    """The indices of a batch's images on which somebody has decided something; only keys are read."""
    prefix = layout.batch_decisions(batch)
    parts = (info.key.removeprefix(prefix).split("/") for info in store.list(store.bucket, prefix))
    return {int(part) * layout.PART_SIZE + int(n) for part, n, *_ in parts}


def _plans(store: ObjectStore, tenant: str) -> Iterator[tuple[str, int, str]]:
    """Batch, index and digest of the images in a tenant's plans; other tenants' plans do not matter."""
    for plan in (plan_of(store, name) for name in plan_names(store)):
        if plan is not None and plan.tenant == tenant:
            yield from ((one.batch, one.index, one.sha256) for one in plan.images)


def _usable(
    rows: pa.Table, read: set[tuple[str, int]], planned: set[str]
) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
    """The numbers of the rows that can be chosen, each image once; and the first reason why others cannot."""
    digests = rows["sha256"]
    seen = digests.filter(pa.array(_at(rows, read)))
    checks = {
        "failed": ~truths(pc.equal(rows["outcome"], "done")),
        "not_classified": ~truths(pc.is_valid(rows["classify_sha256"])),
        "no_lesion": ~truths(rows["lesion"]),
        "not_dermoscopic": _flagged(rows["flags"], "not_dermoscopic"),
        "read": truths(pc.is_in(digests, seen.combine_chunks())),
        "planned": truths(pc.is_in(digests, pa.array(sorted(planned), pa.string()))),
        "other_model": ~truths(pc.equal(rows["classify_sha256"], _model(rows))),
    }
    left, left_out = np.ones(len(rows), bool), dict[str, int]()
    for word, holds in checks.items():
        left_out[word] = int((left & holds).sum())
        left &= ~holds
    numbers = np.flatnonzero(left)
    which = digests.combine_chunks().take(pa.array(numbers)).dictionary_encode().indices
    _, first = np.unique(np.asarray(which), return_index=True)
    left_out["twice"] = len(numbers) - len(first)
    return numbers[np.sort(first)], {word: count for word, count in left_out.items() if count}


def _flagged(flags: pa.ChunkedArray, flag: str) -> npt.NDArray[np.bool_]:
    lists = flags.combine_chunks()
    found = np.zeros(len(lists), bool)
    found[np.asarray(pc.list_parent_indices(lists))[truths(pc.equal(pc.list_flatten(lists), flag))]] = True
    return found


def _at(rows: pa.Table, places: set[tuple[str, int]]) -> npt.NDArray[np.bool_]:
    """Which rows are of these batches and indices."""
    batches = rows["batch"].combine_chunks().dictionary_encode()
    numbers = {name: number for number, name in enumerate(batches.dictionary.to_pylist())}
    wanted = [(numbers[name] << _INDEX_BITS) + index for name, index in places if name in numbers]
    keys = (np.asarray(batches.indices, np.int64) << _INDEX_BITS) + np.asarray(rows["index"], np.int64)
    return np.isin(keys, np.array(wanted, np.int64))


def _model(rows: pa.Table) -> str:
    """The model that classified the most images: embeddings of several models cannot be compared."""
    counts = pc.value_counts(rows["classify_sha256"].drop_null()).to_pylist()
    ranked = sorted((-one["counts"], one["values"]) for one in counts)
    return ranked[0][1] if ranked else ""


def _known(rows: pa.Table, at: set[tuple[str, int]]) -> pa.Table:
    """The rows of what was read or planned before, of the model that classified most; at most so many as above."""
    ours = truths(pc.equal(rows["classify_sha256"], _model(rows))) & truths(rows["lesion"])
    return rows.take(pa.array(np.flatnonzero(_at(rows, at) & ours)[:MOST]))


def _embeddings(store: ObjectStore, chosen: pa.Table) -> tuple[Floats, list[int]]:
    """The embeddings of these rows, in order, and the numbers of the rows whose embedding is usable.

    Each batch's table is read once more, for these alone.
    """
    places = list(zip(chosen["batch"].to_pylist(), chosen["index"].to_pylist(), strict=True))
    found: dict[tuple[str, int], Floats] = {}
    for batch in dict.fromkeys(batch for batch, _ in places):
        mine = pa.array([index for name, index in places if name == batch], pa.int64())
        for body in tables(store, batch):
            rows = pq.read_table(BytesIO(body), columns=["index", "embedding"])
            rows = directed(rows.filter(pc.is_in(rows["index"], mine)))
            if len(rows):
                found |= zip(((batch, i) for i in rows["index"].to_pylist()), embeddings_of(rows), strict=True)
    numbers = [number for number, place in enumerate(places) if place in found]
    return np.stack([found[places[n]] for n in numbers]) if numbers else np.zeros((0, 1), np.float32), numbers


def _shares(rows: pa.Table) -> Floats:
    """Probabilities [N, C], in the order of the labels; 0 for labels that a model does not have."""
    labels = sorted(name for name in rows.column_names if name.startswith(_PREFIX))
    columns = [np.asarray(rows[name].fill_null(0).to_numpy(), np.float32) for name in labels]
    return np.stack(columns, axis=1)


def _disagreement(rows: pa.Table, chosen: pa.Table) -> npt.NDArray[np.float64]:
    """For each image, how far apart the models that classified it are; NaN if only one did."""
    wanted = set(chosen["sha256"].to_pylist())
    classified = rows.filter(
        pc.and_(pc.is_valid(rows["classify_sha256"]), pc.is_in(rows["sha256"], pa.array(wanted)))
    )
    by_image: dict[str, dict[str, Floats]] = {}
    models = zip(classified["sha256"].to_pylist(), classified["classify_sha256"].to_pylist(), strict=True)
    for (sha256, model), shares in zip(models, _shares(classified), strict=True):
        by_image.setdefault(sha256, {})[model] = shares
    several = (list(by_image[sha256].values()) for sha256 in chosen["sha256"].to_pylist())
    return np.array([divergence(one) if len(one) > 1 else np.nan for one in several])
