"""A model's ``config.pbtxt``, as Triton reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dermbatch.errors import ModelContractError


def read_config(folder: Path) -> Any:
    """The ``ModelConfig`` in the ``config.pbtxt`` of a model's folder; without a name, it has the folder's.

    Raises:
        ModelContractError: If it cannot be read, or names another model, as that of a copied folder does.
    """
    # gRPC takes a third of a second to import, and few who name a repository look into its models.
    from google.protobuf import text_format  # noqa: PLC0415
    from tritonclient.grpc import model_config_pb2  # noqa: PLC0415

    path = folder / "config.pbtxt"
    try:
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ModelContractError(f"{path} cannot be read: {error}") from error
    if config.name not in ("", folder.name):
        raise ModelContractError(
            f"{path} names the model {config.name!r}, but its folder is {folder.name!r}: "
            "give both the same name, or leave the name out"
        )
    config.name = folder.name
    return config
