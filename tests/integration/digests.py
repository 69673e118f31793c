"""Model files' digests in their configurations, as the worker needs them."""

import hashlib
import shutil


def copy_with_digests(repository, folder):
    """Copy a model repository, and state the digest of every version's file in its config.pbtxt."""
    shutil.copytree(repository, folder)
    for config in folder.glob("*/config.pbtxt"):
        text = config.read_text()
        for model in sorted(config.parent.glob("*/model.onnx")):
            digest = hashlib.sha256(model.read_bytes()).hexdigest()
            key = f"sha256.{model.parent.name}"
            text += f'parameters {{ key: "{key}" value: {{ string_value: "{digest}" }} }}\n'
        config.write_text(text)
    return folder
