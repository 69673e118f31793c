"""The images that can be chosen for review: those of closed batches that nobody has read or planned yet."""

from __future__ import annotations

from collections import Counter
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
from orchestrator.similar.cases import embeddings_of, tables
from orchestrator.similar.growing import closed

MOST = 20_000
"""Images that are looked at, drawn by chance where there are more: so memory has a limit (some 0.1 GB)."""

_PREFIX = "probability_"
_READ = ("index", "sha256", "outcome", "lesion", "flags", "classify_sha256")


@dataclass(frozen=True)
class Pool:
    """What can be chosen.

    Attributes:
        tenant: Whose.
        images: Batch, index and digest of each candidate.
        candidates: The same as numbers.
        left_out: How many images cannot be chosen, by a word.
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
        UsageError: Where a batch that is named is not there, not closed, or another tenant's, or nothing is left.
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    names = _named(store, batches, tenant)
    parts = [part for name in names for part in _rows(store, name)]
    if not parts:
        raise UsageError("the batches have no table: there is nothing to choose from")
    rows = pa.concat_tables(parts, promote_options="default")
    read = {(name, index) for name in names for index in _decided(store, name)}
    planned = list(_plans(store, tenant))
    usable, left_out = _usable(rows, read, {sha256 for _, _, sha256 in planned})
    if not usable:
        why = ", ".join(f"{count} {word}" for word, count in left_out.items()) or "no image was classified"
        raise UsageError(f"no image is left to choose from: {why}")
    drawn = sorted(random.permutation(usable)[:MOST].tolist())
    chosen = rows.take(pa.array(drawn))
    before = _known(rows, read | {(batch, index) for batch, index, _ in planned})
    candidates = Candidates(
        _embeddings(store, chosen), _shares(chosen), _disagreement(rows, chosen), _embeddings(store, before)
    )
    images = list(zip(*(chosen[name].to_pylist() for name in ("batch", "index", "sha256")), strict=True))
    return Pool(tenant, images, candidates, left_out)


def _named(store: ObjectStore, batches: Sequence[str], tenant: str) -> list[str]:
    there = sorted(name for name, _, _ in closed(store, {}))
    for name in batches:
        if named(store, name).order.tenant != tenant:
            raise UsageError(f"there is no batch {name!r} of tenant {tenant!r}")
        if name not in there:
            raise UsageError(f"batch {name!r} is not closed yet: wait for its end")
    found = list(dict.fromkeys(batches)) or [name for name in there if named(store, name).order.tenant == tenant]
    if not found:
        raise UsageError("there is no closed batch to choose from")
    return found


def _rows(store: ObjectStore, batch: str) -> Iterator[pa.Table]:
    """What a batch's table says of each image, but for its embedding."""
    for body in tables(store, batch):
        file = pq.ParquetFile(BytesIO(body))
        labels = [name for name in file.schema_arrow.names if name.startswith(_PREFIX)]
        found = file.read(columns=[*_READ, *labels])
        yield found.append_column("batch", pa.array([batch] * len(found), pa.string()))


def _decided(store: ObjectStore, batch: str) -> set[int]:
    """The indices of a batch's images that somebody has decided something of: by the keys alone."""
    prefix = layout.batch_decisions(batch)
    parts = (info.key.removeprefix(prefix).split("/") for info in store.list(store.bucket, prefix))
    return {int(part) * layout.PART_SIZE + int(n) for part, n, *_ in parts}


def _plans(store: ObjectStore, tenant: str) -> Iterator[tuple[str, int, str]]:
    """Batch, index and digest of what a tenant's plans have: what another one plans is nothing to it."""
    for plan in (plan_of(store, name) for name in plan_names(store)):
        if plan is not None and plan.tenant == tenant:
            yield from ((one.batch, one.index, one.sha256) for one in plan.images)


def _usable(rows: pa.Table, read: set[tuple[str, int]], planned: set[str]) -> tuple[list[int], dict[str, int]]:
    """The numbers of the rows that can be chosen, each image once; and why the others cannot."""
    told = rows.select([*_READ, "batch"]).to_pylist()
    model = _model(told)
    seen = {row["sha256"] for row in told if (row["batch"], row["index"]) in read}
    found, left_out = [], Counter[str]()
    taken: set[str] = set()
    for number, row in enumerate(told):
        word = _why_not(row, model, seen, planned, taken)
        if word is None:
            taken.add(row["sha256"])
            found.append(number)
        else:
            left_out[word] += 1
    return found, dict(left_out)


def _why_not(row: dict[str, object], model: str, seen: set[str], planned: set[str], taken: set[str]) -> str | None:
    """Why an image cannot be chosen; none where it can."""
    flags = row["flags"] or ()
    checks = {
        "failed": row["outcome"] != "done",
        "not_classified": row["classify_sha256"] is None,
        "no_lesion": not row["lesion"],
        "not_dermoscopic": isinstance(flags, list) and "not_dermoscopic" in flags,
        "read": row["sha256"] in seen,
        "planned": row["sha256"] in planned,
        "other_model": row["classify_sha256"] != model,
        "twice": row["sha256"] in taken,
    }
    return next((word for word, holds in checks.items() if holds), None)


def _model(told: list[dict[str, str]]) -> str:
    """The model that classified most: embeddings of several cannot be compared."""
    counted = Counter(row["classify_sha256"] for row in told if row["classify_sha256"] is not None)
    return min(counted, key=lambda model: (-counted[model], model), default="")


def _known(rows: pa.Table, at: set[tuple[str, int]]) -> pa.Table:
    """The rows of what was read or planned before, of the model that classified most; at most so many as above."""
    told = rows.select([*_READ, "batch"]).to_pylist()
    model = _model(told)
    numbers = [
        number
        for number, row in enumerate(told)
        if (row["batch"], row["index"]) in at and row["classify_sha256"] == model and row["lesion"]
    ]
    return rows.take(pa.array(numbers[:MOST], pa.int64()))


def _embeddings(store: ObjectStore, chosen: pa.Table) -> Floats:
    """Of these rows, in their order: each batch's table is read once more, for these alone."""
    places = list(zip(chosen["batch"].to_pylist(), chosen["index"].to_pylist(), strict=True))
    found: dict[tuple[str, int], Floats] = {}
    for batch in dict.fromkeys(batch for batch, _ in places):
        mine = pa.array([index for name, index in places if name == batch], pa.int64())
        for body in tables(store, batch):
            rows = pq.read_table(BytesIO(body), columns=["index", "embedding"])
            rows = rows.filter(pc.is_in(rows["index"], mine))
            if len(rows):
                found |= zip(((batch, i) for i in rows["index"].to_pylist()), embeddings_of(rows), strict=True)
    return np.stack([found[place] for place in places]) if places else np.zeros((0, 1), np.float32)


def _shares(rows: pa.Table) -> Floats:
    """Probabilities [N, C], of labels in order; of those that a model does not have, 0."""
    labels = sorted(name for name in rows.column_names if name.startswith(_PREFIX))
    columns = [np.asarray(rows[name].fill_null(0).to_numpy(), np.float32) for name in labels]
    return np.stack(columns, axis=1)


def _disagreement(rows: pa.Table, chosen: pa.Table) -> npt.NDArray[np.float64]:
    """Of each image, how far apart all models that have classified it are; NaN where that is one."""
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
