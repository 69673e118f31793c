"""Whether the models of a Triton repository are the files that their configurations name; needs no package."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

_DIGEST = re.compile(r'key: "sha256\.(\d+)" value: \{ string_value: "([0-9a-f]{64})"')


def wrong_models(repository: Path) -> list[str]:
    """Sentences about files whose SHA-256 is not the one in ``config.pbtxt``, or that it does not name."""
    found = []
    for config in sorted(repository.glob("*/config.pbtxt")):
        named = dict(_DIGEST.findall(config.read_text(encoding="utf-8")))
        for model in sorted(config.parent.glob("[0-9]*/model.onnx")):
            version = model.parent.name
            if hashlib.sha256(model.read_bytes()).hexdigest() != named.pop(version, None):
                found.append(f"{config.parent.name} version {version}: not the file that config.pbtxt names")
        found += [f"{config.parent.name} version {version}: no model.onnx" for version in named]
    return found


if __name__ == "__main__":
    sys.exit("\n".join(wrong_models(Path(sys.argv[1]))) or None)
