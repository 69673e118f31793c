"""Readers on damaged files in a process of little memory: no crash, no hang, nothing but an image or a refusal."""

import ast
import subprocess
import sys
from pathlib import Path

from tests.waiting import patience


def test_damaged_files_and_archives_end_as_images_or_refusals(tmp_path):
    """In a process of its own: a decoder that crashes, or asks for all memory, takes only that with it."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.fuzzing", "--cases", "1500", "--keep", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=patience(200),
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    outcomes = ast.literal_eval(ended.stdout)
    assert sum(outcomes.values()) == 1500
    assert {"ok", "truncated", "corrupt", "zip_corrupt", "no_pixel_data", "not_a_skin_image"} <= set(outcomes)
    assert list(tmp_path.iterdir()) == []
