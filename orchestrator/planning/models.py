"""Requested models, checked against those that exist: in a repository's files or in a running Triton."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dermbatch.errors import InferenceUnavailable, ModelContractError, UsageError
from dermbatch.models.configuration import read_config
from dermbatch.models.contracts import DOUBLER
from dermbatch.models.modelfile import path_of, session, whole_file
from dermbatch.models.repository import (
    default_model_repository,
    for_onnx_runtime,
    served_models,
    shown_supports,
)
from dermbatch.models.served import ServedModel, describe
from dermbatch.models.triton import Triton
from dermbatch.records.asked import ModelChoice
from dermbatch.settings import DEFAULT_MODELS, Engine, Settings, TritonSettings
from dermbatch.stages import ORDER, Stage

Served = Mapping[str, Sequence[str]]
"""Names of models to their versions, oldest first."""


def served(settings: TritonSettings, *, timeout: float = 10) -> Served:
    """The models that a Triton serves now, that is, has loaded.

    Args:
        settings: Where it is.
        timeout: Seconds that it may take to answer.

    Raises:
        InferenceUnavailable: If it does not answer, with its address.
    """
    triton = Triton(settings)
    try:
        return triton.index(timeout)
    finally:
        triton.close()


@dataclass(frozen=True)
class Offer:
    """The models that there are to choose from.

    Attributes:
        where: Where they are, for messages: a Triton's address or a repository's folder.
        models: The models; none if they are not known, so that nothing is refused.
        shown: Those that have to be shown a support; none if not known.
        look: What a model states, none if that is not known; raises ``ModelContractError`` if it breaks a stage's
            contract. None if nobody can look.
    """

    where: str
    models: Served | None
    shown: frozenset[str] | None = None
    look: Callable[[Stage, ModelChoice], ServedModel | None] | None = None

    @classmethod
    def of_repository(cls, repository: Path, engine: Engine) -> Offer:
        """What a repository offers an engine that reads it."""

        def look(stage: Stage, choice: ModelChoice) -> ServedModel | None:
            if choice.name == DEFAULT_MODELS[stage].name and repository == default_model_repository():
                return None  # what ships keeps its contract, and is not worth the time
            config = read_config(repository / choice.name)
            # Triton may complete a configuration that leaves tensors out, once it has read the model's file.
            if engine is not Engine.ONNXRUNTIME and not (config.input and config.output):
                return None
            model = describe(stage, choice.version or "", config)
            _look_at_file(repository, model, config, engine)
            return model

        shown = shown_supports(repository)
        if engine is Engine.TRITON:
            return cls(str(repository), served_models(repository), shown, look)
        where = f"{repository} that ONNX Runtime runs without Triton"
        return cls(where, for_onnx_runtime(repository), shown, look)

    @classmethod
    def known(cls, settings: Settings) -> Offer:
        """What the engine of the settings offers: a repository's models, or those that a Triton serves.

        Raises:
            InferenceUnavailable: If Triton does not answer.
        """
        if settings.inference.engine is Engine.ONNXRUNTIME:
            repository = settings.inference.repository or default_model_repository()
            return cls.of_repository(repository, Engine.ONNXRUNTIME)

        def look(stage: Stage, choice: ModelChoice) -> ServedModel | None:
            triton = Triton(settings.triton)
            try:
                return triton.model(stage, choice)
            finally:
                triton.close()

        return cls(_at(settings.triton), served(settings.triton), look=look)

    @classmethod
    def of(cls, settings: Settings, told: Callable[[str], None]) -> Offer:
        """As :meth:`known`; if Triton does not answer, nothing is known, and ``told`` gets a sentence on it."""
        try:
            return cls.known(settings)
        except InferenceUnavailable as error:
            told(f"models are not checked: {error}")
            return cls(_at(settings.triton), None)

    def check(self, models: Mapping[Stage, ModelChoice]) -> dict[Stage, ModelChoice]:
        """Refuse models that cannot be served, as far as that is known.

        Returns:
            The models, each with the version that would run now.

        Raises:
            UsageError: As :func:`check`, or for a model that breaks its stage's contract: every image would fail.
        """
        if self.models is None:
            return dict(models)
        check(models, self.models, self.where)
        chosen = pinned(models, self.models)
        for stage, choice in chosen.items():
            self._keeps_contract(stage, choice)
        return chosen

    def _keeps_contract(self, stage: Stage, choice: ModelChoice) -> None:
        if self.look is None:
            return
        try:
            model = self.look(stage, choice)
        except ModelContractError as error:
            raise UsageError(f"{stage}: {error}") from error
        except InferenceUnavailable:
            return  # a model that is being loaded may well keep it
        if model is not None and (doubler := model.parameters.get(DOUBLER)):
            self._has_doubler(stage, model, doubler)

    def _has_doubler(self, stage: Stage, model: ServedModel, name: str) -> None:
        """Refuse an enhance model whose doubler is missing: all lesions that it is for would fail."""
        if self.models is not None and model.version not in self.models.get(name, ()):
            raise UsageError(
                f"{stage}: {model.name} needs version {model.version} of its doubler {name}, which is not in "
                f"{self.where}; put it there, or remove the parameter {DOUBLER!r} from {model.name}"
            )
        self._keeps_contract(stage, ModelChoice(name=name, version=model.version))


def _look_at_file(repository: Path, model: ServedModel, config: Any, engine: Engine) -> None:
    """Refuse a file that is not the one that its configuration describes: Triton would run it all the same.

    Raises:
        ModelContractError: If it is another one, or, where workers run it themselves, cannot be run.
    """
    path = path_of(repository, model, config)
    alone = engine is Engine.ONNXRUNTIME
    if not alone and not path.is_file():
        return  # an ensemble, or of another backend
    body = whole_file(path, model)
    if alone and importlib.util.find_spec("onnxruntime") is not None:
        session(body, model, config)


def _at(triton: TritonSettings) -> str:
    return f"Triton at {triton.url}"


def named(texts: Iterable[str]) -> dict[Stage, ModelChoice]:
    """The models that texts like ``STAGE=NAME@VERSION`` name.

    Raises:
        UsageError: If one is not written like that, or a stage gets two.
    """
    chosen: dict[Stage, ModelChoice] = {}
    for text in texts:
        stage, _, model = text.partition("=")
        name, _, version = model.partition("@")
        if stage not in set(ORDER) or not name:
            raise UsageError(
                f"--model {text!r}: write STAGE=NAME or STAGE=NAME@VERSION, STAGE one of {','.join(ORDER)}"
            )
        choice = ModelChoice(name=name, version=version or None)
        if chosen.setdefault(Stage(stage), choice) != choice:
            raise UsageError(
                f"--model names two models for {stage}: {chosen[Stage(stage)].name} and {name}; name one"
            )
    return chosen


def check(models: Mapping[Stage, ModelChoice], served: Served, where: str) -> None:
    """Refuse models that cannot be served, before anything is written.

    Args:
        models: What was asked for.
        served: What there is.
        where: Where that is, for the message: a Triton's address or a repository's folder.

    Raises:
        UsageError: For a model or a version that is not there; the sentence names those that are.
    """
    for stage, choice in models.items():
        versions = served.get(choice.name)
        if versions is None:
            there = ", ".join(served) or "none at all"
            bundled = choice.name == DEFAULT_MODELS[stage].name
            copy = f"; copy it from {default_model_repository()}, or choose another" if bundled else ""
            raise UsageError(f"{stage}: no model {choice.name!r} in {where}; there are {there}{copy}")
        if not versions:
            raise UsageError(
                f"{stage}: {choice.name} has no version in {where}; its first one is {choice.name}/1/model.onnx"
            )
        if choice.version is not None and choice.version not in versions:
            there = f"has versions {', '.join(versions)}"
            raise UsageError(f"{stage}: {choice.name} {there} in {where}, not {choice.version!r}")


def pinned(models: Mapping[Stage, ModelChoice], served: Served) -> dict[Stage, ModelChoice]:
    """Models that :func:`check` has passed, each with the version that would run now."""
    return {
        stage: choice if choice.version else ModelChoice(name=choice.name, version=served[choice.name][-1])
        for stage, choice in models.items()
    }
