"""Which engine runs the models, according to the settings."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from dermbatch.errors import StackError
from dermbatch.models.repository import default_model_repository
from dermbatch.settings import Engine, Settings
from workers.inference.protocol import Inference
from workers.triton.client import TritonClient


def engine_of(settings: Settings) -> Callable[[], Inference]:
    """A factory for the engine that the settings name, to be called after a fork.

    Raises:
        StackError: If models are to be run here, and there are none, or ONNX Runtime is not installed.
    """
    if settings.inference.engine is Engine.TRITON:
        return lambda: TritonClient(settings.triton)
    if importlib.util.find_spec("onnxruntime") is None:
        raise StackError(
            "ONNX Runtime is not installed: pip install onnxruntime, or set DERMBATCH_INFERENCE__ENGINE=triton"
        )
    from workers.inference.onnx import OnnxRuntime  # noqa: PLC0415 - only where it is used must it be there

    repository = settings.inference.repository or default_model_repository()
    return lambda: OnnxRuntime(repository)
