"""The script that brings instances of Orthanc into a bucket; with stand-ins for curl and the AWS command line."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "orthanc" / "export-instance.sh"


@pytest.fixture
def export(tmp_path):
    """Runs it; each stand-in fails as often as the file of its name says, and notes its last argument."""
    for name in ("curl", "aws"):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\ncd {tmp_path}\nfor last; do :; done\necho "$last" >> {name}.calls\n'
            f"left=$(cat {name}.fails 2> /dev/null || echo 0)\n"
            f'[ "$left" -gt 0 ] || exit 0\necho $((left - 1)) > {name}.fails\nexit 22\n'
        )
        program.chmod(0o755)

    def export(**fails):
        for name, times in fails.items():
            (tmp_path / f"{name}.fails").write_text(str(times))
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "ORTHANC_URL": "http://pacs",
            "ORTHANC_NETRC": "netrc",
            "BUCKET": "hospital",
            "PAUSE": "0",
            "NOT_EXPORTED": str(tmp_path / "not-exported"),
        }
        return subprocess.run([SCRIPT, "i1", "s1"], env=environment, check=False).returncode

    return export


def test_what_fails_is_tried_again(export, tmp_path):
    assert export(curl=2, aws=3) == 0
    assert (tmp_path / "aws.calls").read_text().splitlines() == ["s3://hospital/exports/s1/i1.dcm"] * 4
    assert (tmp_path / "curl.calls").read_text().splitlines() == ["http://pacs/instances/i1/file"] * 6
    assert not (tmp_path / "not-exported").exists()


def test_what_fails_for_long_is_kept_to_be_exported_later(export, tmp_path):
    assert export(aws=8) == 1
    assert (tmp_path / "not-exported").read_text() == "i1 s1\n"
    assert export() == 0
