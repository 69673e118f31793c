"""Whether the models of a Triton repository are the files that their configurations name; needs no package."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

_DIGEST = re.compile(r'key: "sha256\.(\d+)"\s*value:? \{\s*string_value: "([0-9a-f]{64})"')


def wrong_models(repository: Path) -> list[str]:
    """Sentences about files whose SHA-256 is not the one in ``config.pbtxt``, or that it does not name."""
    found = []
    for config in sorted(repository.glob("*/config.pbtxt")):
        named = dict(_DIGEST.findall(config.read_text(encoding="utf-8")))
        files = [*config.parent.glob("[0-9]*/model.onnx"), *config.parent.glob("[0-9]*/steps.txt")]
        for model in sorted(files):
            version = model.parent.name
            if hashlib.sha256(model.read_bytes()).hexdigest() != named.pop(version, None):
                found.append(f"{config.parent.name} version {version}: not the file that config.pbtxt names")
            if model.name == "steps.txt":
                found += _wrong_steps(repository, model)
        found += [f"{config.parent.name} version {version}: no model.onnx or steps.txt" for version in named]
    return found


def _wrong_steps(repository: Path, steps: Path) -> list[str]:
    """Sentences about an ensemble's steps that are not the files that its ``steps.txt`` names."""
    found = []
    for line in steps.read_text(encoding="utf-8").splitlines():
        name, version, digest = line.split()
        model = repository / name / version / "model.onnx"
        if not model.is_file() or hashlib.sha256(model.read_bytes()).hexdigest() != digest:
            found.append(f"{steps.parent.parent.name}: {name} version {version} is not the step that it names")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(wrong_models(Path(sys.argv[1]))) or None)
