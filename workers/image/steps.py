"""The steps of one image: its stages with their models, parameters and keys, and how each is run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass

from dermbatch.errors import ModelContractError
from dermbatch.models.served import Array, ServedModel
from dermbatch.models.stagekey import stage_key
from dermbatch.records.asked import ImageJob, SupportChoice
from dermbatch.records.outcome import ImageInfo, StageOutput
from dermbatch.stages import FEEDS, Stage, closure
from dermbatch.store import ObjectStore
from workers.image.pictures import BORDER, ENHANCED, MASK, PATTERNS, PURIFIED, SEEN, Pictures
from workers.image.support import check, prototypes
from workers.inference.protocol import Inference
from workers.stages.classify import ClassifyParameters, classify
from workers.stages.enhance import EnhanceParameters, doubler_of, enhance
from workers.stages.purify import PurifyParameters, purify
from workers.stages.segment import SegmentParameters, segment

Parameters = PurifyParameters | SegmentParameters | EnhanceParameters | ClassifyParameters

_PARAMETERS: dict[Stage, Callable[[ServedModel], Parameters]] = {
    Stage.PURIFY: PurifyParameters.of,
    Stage.SEGMENT: SegmentParameters.of,
    Stage.ENHANCE: EnhanceParameters.of,
    Stage.CLASSIFY: ClassifyParameters.of,
}


@dataclass(frozen=True)
class Step:
    """One stage as it will run: all that its outcome depends on."""

    stage: Stage
    model: ServedModel
    parameters: Parameters
    fed_by: dict[Stage, str]
    key: str
    support: SupportChoice | None = None
    doubler: ServedModel | None = None

    @property
    def stated(self) -> dict[str, float | int | str | bool]:
        """Its parameters for records and keys, and what the model is shown, or has beside it, if anything."""
        return asdict(self.parameters) | told(self.support, self.doubler)


def told(support: SupportChoice | None, doubler: ServedModel | None = None) -> dict[str, str]:
    """What records and keys say about a support, or about a doubler; no stage has both."""
    if doubler is not None:
        return {"doubler": doubler.name, "doubler_sha256": doubler.sha256}
    if support is None:
        return {}
    stated = {"support": f"{support.name}@{support.version}", "support_sha256": support.sha256}
    return stated | ({"support_disease": support.disease} if support.disease else {})


def plan(job: ImageJob, client: Inference) -> tuple[Step, ...]:
    """The stages that a job needs, each with its model, its parameters and its key.

    Raises:
        ModelContractError: If a model is missing or breaks its contract.
        InferenceUnavailable: If Triton does not answer.
    """
    steps: dict[Stage, Step] = {}
    for stage in closure(frozenset(job.order.stages)):
        if stage not in job.order.models:
            raise ModelContractError(f"the job names no model for {stage}")
        model = client.model(stage, job.order.models[stage])
        parameters = _PARAMETERS[stage](model)
        fed_by = {fed: steps[fed].key for fed in FEEDS[stage] if fed in steps}
        support = job.order.support if stage == Stage.SEGMENT else None
        if stage == Stage.SEGMENT:
            check(model, support)
        doubler = doubler_of(model, client) if stage == Stage.ENHANCE else None
        key = stage_key(stage, model.used, asdict(parameters) | told(support, doubler), fed_by)
        steps[stage] = Step(stage, model, parameters, fed_by, key, support, doubler)
    return tuple(steps.values())


def run_step(
    step: Step, pictures: Pictures, image: ImageInfo, client: Inference, store: ObjectStore
) -> tuple[StageOutput, dict[str, Array]]:
    """Run a step on the pictures so far, and add those that it makes.

    Returns:
        What the record says of it, and its artifacts by file name.
    """
    made: dict[str, Array]
    match step.parameters:
        case PurifyParameters() as parameters:
            purified = purify(pictures.source.pixels, client, step.model, parameters)
            pictures.purified = purified.image
            return purified.output, {PURIFIED: purified.image}
        case SegmentParameters() as parameters:
            shown = prototypes(step.support, step.model, client, store) if step.support else None
            segmented = segment(
                pictures.clean,
                client,
                step.model,
                parameters,
                spacing_mm=image.pixel_spacing_mm,
                aspect=image.pixel_aspect or 1.0,
                prototypes=shown,
            )
            pictures.mask, pictures.border = segmented.mask, segmented.border
            made = {MASK: segmented.mask}
            return segmented.output, made if segmented.border is None else made | {BORDER: segmented.border}
        case EnhanceParameters() as parameters:
            enhanced = enhance(
                pictures.clean, pictures.lesion, client, step.model, parameters, doubler=step.doubler
            )
            pictures.enhanced = enhanced.image
            made = {} if enhanced.image is None else {ENHANCED: enhanced.image}
            return enhanced.output, made
        case ClassifyParameters() as parameters:
            classified = classify(pictures.clean, pictures.lesion, client, step.model, parameters)
            made = {"embedding.npy": classified.embedding, "saliency.png": classified.saliency}
            if classified.seen is not None:
                made[SEEN] = classified.seen
            if classified.patterns is not None:
                made[PATTERNS] = classified.patterns
            return classified.output, made


def preview_key(steps: tuple[Step, ...]) -> str:
    """Digest of the steps whose pictures a preview shows: 32 hexadecimal digits."""
    return hashlib.sha256("\n".join(step.key for step in steps).encode()).hexdigest()[:32]
