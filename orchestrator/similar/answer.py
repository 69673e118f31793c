"""Answers: the cases most like one, by the whole lesion and by its local patterns, and which regions match.

An index names candidates by the whole lesion's embedding. Then the record of each is read, so that deleted images
are never shown, and its local patterns are compared. Similarities say which pictures look alike: they are not
probabilities, and are shown beside them, never instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dermbatch import layout
from dermbatch.errors import NewerFormat, PermanentError, UsageError
from dermbatch.records.outcome import ClassifyOutput, ModelUsed, ResultRecord, SegmentOutput
from dermbatch.records.row import read_array
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import read
from orchestrator.batches.entries import asked as batch_of
from orchestrator.batches.outcomes import in_order
from orchestrator.similar.facts import Facts
from orchestrator.similar.growing import waiting
from orchestrator.similar.identity import Identity
from orchestrator.similar.patterns import Match, Patterns, apart, matches
from orchestrator.similar.picture import look_of
from orchestrator.similar.shelf import IndexedCase, IndexShelf, OpenIndex, Refinement, forbidden

LOCAL = 0.25
"""Share of the local patterns in the similarity: chosen on training images, measured in docs/similar.md."""

LOCAL_CHOSEN = 0.75
"""The same if somebody chooses regions: then these are what the question is about."""

NEAR = 0.52
"""Similarity below which nothing counts as near, which happens for one in twenty validation images."""

MOST = 50
"""Cases in an answer at most."""

_CANDIDATES, _A_CASE = 20, 2
_ROUNDS = 16  # so many more candidates, if those before are of the same person, or gone
_AT_A_TIME = 4
_MATCHES = 5


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        record: The image.
        count: How many cases, 1 to :data:`MOST`.
        refinement: The cases to search among.
        regions: Numbers of the image's regions that count; all if none are named.
        same: Whether cases of the same lesion or person may be shown, too.
        tenant: Search only this tenant's cases; the answer says nothing about others. None: search all.
    """

    record: ResultRecord
    count: int = 5
    refinement: Refinement = field(default_factory=Refinement)
    regions: tuple[int, ...] = ()
    same: bool = False
    tenant: str | None = None


@dataclass(frozen=True)
class Neighbour:
    """A similar case.

    Attributes:
        batch, index, name: Which image.
        size: Its width and height, in pixels.
        similarity: Up to 1, for the same look: ``whole_counted`` plus what all regions count.
        whole: Cosine of both embeddings, -1 to 1.
        whole_counted: What that adds to the similarity.
        local: How alike the regions are, each with its weight, 0 to 1.
        label, probability: What the classifier finds most probable.
        facts: What the institution says of it.
        matches: The regions that count most, of those that lie apart.
    """

    batch: str
    index: int
    name: str
    size: tuple[int, int]
    similarity: float
    whole: float
    whole_counted: float
    local: float
    label: str | None
    probability: float | None
    facts: Facts
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Answer:
    """Similar cases.

    Attributes:
        version: Version of the index; none if a tenant asks, because it grows with others' batches.
        model: Whose embeddings it holds.
        held: How many cases it holds.
        waiting: How many images of closed batches it does not hold yet.
        sure: Whether any case is near.
        why: If none is, a sentence that says so; the nearest are returned anyway.
        near: Similarity from which a case is near.
        patterns: The image's regions, by number.
        neighbours: The most similar first.
    """

    version: int | None
    model: ModelUsed
    held: int
    waiting: int
    sure: bool
    why: str
    near: float
    patterns: Patterns
    neighbours: tuple[Neighbour, ...]


def answer(store: ObjectStore, shelf: IndexShelf, question: Question) -> Answer:
    """The cases most like an image.

    Raises:
        PermanentError: With reason ``no_embedding`` where the image was not classified, ``no_lesion`` where none
            was found in it, ``not_dermoscopic`` where it is no dermoscopic image; ``no_index``, ``index_damaged``.
        UsageError: For a region that the image does not have.
        ObjectNotFound, ArtifactDamaged: Where the image's own pictures are gone, or damaged.
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    model, embedding = embedding_of(question.record)
    patterns = _patterns(store, question)
    opened = shelf.get(store, model, question.tenant)
    if opened.index.dimension != len(embedding):
        raise PermanentError(
            "the index has embeddings of another dimension; rebuild it: dermbatch cases rebuild",
            reason="no_index",
        )
    found = _Search(store, opened, question, patterns).neighbours(embedding)
    sure = bool(found) and found[0].similarity >= NEAR
    return Answer(
        version=opened.index.version if question.tenant is None else None,
        model=model,
        held=opened.index.cases,
        waiting=waiting(store, opened.index, question.tenant),
        sure=sure,
        why="" if sure else _why(found),
        near=NEAR,
        patterns=patterns,
        neighbours=found,
    )


@dataclass(frozen=True)
class _Search:
    store: ObjectStore
    opened: OpenIndex
    question: Question
    patterns: Patterns

    def neighbours(self, embedding: npt.NDArray[np.float32]) -> tuple[Neighbour, ...]:
        """The most similar of the candidates from the index, each looked up."""
        allowed = self.opened.allowed(self.question.refinement, forbidden(self.store))
        count = _CANDIDATES + _A_CASE * self.question.count
        record = self.question.record
        batch = batch_of(self.store, record.batch)
        asked = Identity(self.store, record, batch, self.opened.facts)
        found: list[Neighbour] = []
        for _ in range(_ROUNDS):
            numbers = [number for number, _ in self.opened.coder.nearest(embedding, count, allowed)]
            looked_at = in_order(lambda number: self._look(number, embedding, asked), numbers, _AT_A_TIME)
            found += (one for one in looked_at if one is not None)
            if len(found) >= self.question.count or len(numbers) < count:
                break
            allowed[numbers] = False
        return tuple(sorted(found, key=lambda one: -one.similarity)[: self.question.count])

    def _look(self, number: int, embedding: npt.NDArray[np.float32], asked: Identity) -> Neighbour | None:
        """A candidate; none if it is the image itself, one of the same lesion or person, or gone."""
        case = self.opened.case(number)
        if asked.is_image(case):
            return None
        try:
            record = read(self.store, layout.result(case.batch, case.index), ResultRecord)
            if record.source.sha256 != case.sha256:
                return None
            theirs = embedding_of(record)[1]
            look = look_of(self.store, record)
        except (PermanentError, NewerFormat):  # deleted, or edited
            return None
        whole = float(embedding @ theirs) if len(theirs) == len(embedding) else -1.0
        if look is None or (not self.question.same and asked.is_same(case, record, whole)):
            return None
        return self._neighbour(case, (record.source.width, record.source.height), whole, look)

    def _neighbour(self, case: IndexedCase, size: tuple[int, int], whole: float, look: Patterns) -> Neighbour:
        share = LOCAL_CHOSEN if self.question.regions else LOCAL
        found = matches(self.patterns, look, self.question.regions)
        local = sum(match.counted for match in found)
        counted = (1 - share) * whole
        return Neighbour(
            batch=case.batch,
            index=case.index,
            name=case.name,
            size=size,
            similarity=round(counted + share * local, 4),
            whole=round(whole, 4),
            whole_counted=round(counted, 4),
            local=round(local, 4),
            label=case.label,
            probability=case.probability,
            facts=case.facts,
            matches=tuple(match.of(share) for match in apart(found, _MATCHES)),
        )


def embedding_of(record: ResultRecord) -> tuple[ModelUsed, npt.NDArray[np.float32]]:
    """The model that made an image's embedding, and that embedding: float32 [D], of unit length.

    Raises:
        PermanentError: As for :func:`answer`, where it has none that can be compared.
    """
    stage = record.stages.get(Stage.CLASSIFY)
    if stage is None or not isinstance(stage.output, ClassifyOutput):
        raise PermanentError(
            "the image was not classified, so it has no embedding; run the classify stage on it",
            reason="no_embedding",
        )
    if "not_dermoscopic" in record.flags:
        raise PermanentError(
            "it is not a dermoscopic image, so nothing is compared with it", reason="not_dermoscopic"
        )
    segmented = record.stages.get(Stage.SEGMENT)
    if segmented is None or not isinstance(segmented.output, SegmentOutput) or segmented.output.lesion is None:
        raise PermanentError("no lesion was found in the image: there is nothing to compare", reason="no_lesion")
    vector = _vector(stage.inline.get("embedding.npy"))
    return stage.model, vector


def _vector(body: bytes | None) -> npt.NDArray[np.float32]:
    try:
        found = np.asarray(read_array(body or b""), np.float32).ravel()
    except ValueError as error:
        raise PermanentError("the image's record has no embedding", reason="no_embedding") from error
    length = float(np.linalg.norm(found))
    if not np.isfinite(length) or length == 0:
        raise PermanentError("the image's embedding is zero or not finite", reason="no_embedding")
    return np.asarray(found / length, np.float32)


def _patterns(store: ObjectStore, question: Question) -> Patterns:
    found = look_of(store, question.record)
    if found is None:
        raise PermanentError("the image's record has no picture of its lesion to compare", reason="no_lesion")
    if beyond := [number for number in question.regions if not 0 <= number < len(found.boxes)]:
        raise UsageError(f"the image has no region {beyond[0]}: it has 0 to {len(found.boxes) - 1}")
    return found


def _why(found: tuple[Neighbour, ...]) -> str:
    if not found:
        return "not sure: the index holds no case that could be compared"
    return (
        f"not sure: nothing is near, the nearest has a similarity of {found[0].similarity:.2f} (near: {NEAR:.2f})"
    )
