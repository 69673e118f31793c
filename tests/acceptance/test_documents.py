"""What the documents print is typed here, in a folder as a clone is: block by block, with few stand-ins.

A stand-in that is not found in its document fails, so that neither goes on without the other. What cannot run
here: services elsewhere (AWS, MinIO, Ceph) and ``make``, which installs.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dermbatch.phantoms.samples import write_samples
from orchestrator.stack.ports import free_ports
from tests.acceptance.commands import failures
from tests.integration.digests import copy_with_digests
from tests.integration.tiny_models import write_repository
from tests.needed import program
from tests.waiting import patience

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
OWN_STORE = """eval "$(python3 -c "
import json
store = json.load(open('.dermbatch/stack.json'))['settings']['store']
print('export AWS_DEFAULT_REGION=us-east-1 AWS_ENDPOINT_URL=' + store['endpoint_url'])
print('export AWS_ACCESS_KEY_ID=' + store['access_key_id'])
print('export AWS_SECRET_ACCESS_KEY=' + store['secret_access_key'])
")"
"""
UP = ("dermbatch up", "dermbatch up --engine onnxruntime --model-repository MY_MODELS")
UNTIL_CTRL_C = "timeout --preserve-status --signal=INT 8 {} || test $? = 130"


def printed(document, language="sh"):
    """The blocks of a document, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)


def block(document, holding, language="sh"):
    """The one block with this text in it."""
    found = [one for one in printed(document, language) if holding in one]
    assert len(found) == 1, (document, holding)
    return found[0]


def replaced(text, pairs):
    """A block with stand-ins: each has to be in it."""
    for there, here in pairs:
        assert there in text, there
        text = text.replace(there, str(here))
    return text


class Clone:
    """A folder with what a clone has, and a shell in it."""

    def __init__(self, folder, models):
        self.folder, self.models = folder, models
        (folder / ".venv/bin").mkdir(parents=True)
        command = folder / ".venv/bin/dermbatch"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m orchestrator.cli "$@"\n')
        command.chmod(0o755)
        shutil.copytree(ROOT / "deploy/orthanc", folder / "deploy/orthanc")
        write_samples(folder / "FOLDER", 4)
        shutil.copytree(models, folder / "MY_MODELS")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DERMBATCH_", "AWS_"))}
        self.env = {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "AWS_EC2_METADATA_DISABLED": "true"}

    def type(self, *blocks, **env):
        """Type blocks one after the other; all has to end with 0. What they print."""
        ended = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", "\n".join(blocks)],
            cwd=self.folder,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=patience(400),
            check=False,
            start_new_session=True,
        )
        assert ended.returncode == 0, f"{blocks}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def my_models(tmp_path_factory, small_models):
    """The tiny models under the names that ship, and ``my_unet`` in versions 3 and 4."""
    folder = tmp_path_factory.mktemp("my_models")
    write_repository(folder / "tiny")
    shutil.copytree(small_models, folder / "all")
    for here, there in (("1", "3"), ("2", "4")):
        shutil.copytree(folder / "tiny/segment_tiny" / here, folder / "own/my_unet" / there)
    config = (folder / "tiny/segment_tiny/config.pbtxt").read_text().replace("segment_tiny", "my_unet")
    (folder / "own/my_unet/config.pbtxt").write_text(config)
    shutil.copytree(copy_with_digests(folder / "own", folder / "signed") / "my_unet", folder / "all/my_unet")
    return folder / "all"


@pytest.fixture
def clone(tmp_path, my_models):
    clone = Clone(tmp_path, my_models)
    yield clone
    if (tmp_path / ".dermbatch/stack.json").exists():
        clone.type(".venv/bin/dermbatch down")


def patiently(condition):
    """Wait until it holds."""
    return f"for try in $(seq {patience(600):.0f}); do {condition} && break || sleep 0.2; done; {condition}"


def until_ctrl_c(text):
    """Commands that go on for ever, each for a few seconds."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return "\n".join(
        UNTIL_CTRL_C.format(one) if " watch " in one and "--once" not in one else one for one in lines
    )


def test_a_run_as_the_readme_has_it(clone):
    output = clone.type(
        block("README.md", "run FOLDER --out DIR\n"),
        block("README.md", "dermbatch doctor"),
        block("README.md", "--model-repository MY_MODELS"),
    )
    assert "Report: DIR/report.html" in output
    assert not failures(clone.folder / "DIR")


def test_a_stack_as_the_readme_and_resegmenting_have_it(clone):
    stays, end = replaced(block("README.md", "dermbatch up "), [UP]).split(".venv/bin/dermbatch down")
    clone.type(stays)
    assert (clone.folder / "DIR/batches/monday/report.html").exists()
    ended = ("dermbatch pause monday", "dermbatch pause monday 2> why || grep 'has ended' why")
    output = clone.type(replaced(block("README.md", "dermbatch pause monday"), [ended]))
    assert "no image failed for store_unavailable; nothing was changed" in output
    _, resegment = block("docs/resegment.md", "my_unet@4 --batch monday-4").split("\n", 1)  # it is up already
    clone.type(resegment, f".venv/bin/dermbatch down{end}")
    assert (clone.folder / "DIR/batches/monday-4/comparison.html").exists()


def test_watching_as_its_page_and_the_readme_have_it(clone):
    (clone.folder / "rules.yaml").write_text(block("docs/watch.md", "clinic-a-urgent", "yaml"))
    # The last two are of pacs.md and fhir.md, each with a server of its own.
    *begun, _, _ = block("README.md", "watch s3://exports/dermatology").splitlines()
    output = clone.type(
        f".venv/bin/{UP[1]}",
        OWN_STORE,
        "aws s3 mb s3://exports; aws s3 mb s3://results",
        "aws s3 cp --quiet --recursive FOLDER s3://exports/clinic-a/urgent",
        until_ctrl_c(block("docs/watch.md", "watch s3://exports/clinic-a")),
        block("docs/watch.md", "rules check"),
        until_ctrl_c("\n".join(begun)),
        ".venv/bin/dermbatch status",
        DERMBATCH_DICOMWEB__PACS__URL="http://127.0.0.1:9/dicom-web",
        DERMBATCH_PRIVACY__SALT="no secret, but long enough",
        DERMBATCH_WATCH__METRICS_PORT="0",
    )
    assert "takes images in by rule" in output


def test_an_export_of_a_pacs_as_printed(clone):
    for name, package in (("Orthanc", "orthanc"), ("storescu", "dcmtk"), ("aws", "awscli")):
        program(name, package)
    etc, (store, http, dicom) = clone.folder / "etc", free_ports(3)
    etc.mkdir()
    ports = [("8042", http)]
    folder = [("/etc/orthanc", etc)]
    first = replaced(block("docs/pacs.md", "dermbatch up"), [("9000", store), *ports, UP])
    pacs = replaced(block("docs/pacs.md", "install -o root"), [*folder, *ports])
    before, serve = re.sub(r"-o \w+ -g \w+ ", "", pacs).split("Orthanc /", 1)
    changes = (
        f"s/8042/{http}/",
        f"s/4242/{dicom}/",
        "s/: 60/: 1/",
        f"s#/etc/orthanc#{etc}#",
        f"s#/var/lib/orthanc#{etc}#",
    )
    (clone.folder / "rules.yaml").write_text(block("docs/pacs.md", "prefix: s3://hospital/exports/", "yaml"))
    ask = f"curl --silent --netrc-file {etc}/netrc http://127.0.0.1:{http}/instances"
    there = f"[ $({ask} | grep -c '[0-9a-f-]\\{{44\\}}') -ge 4 ]"
    tried = [*folder, *ports, ("4242", dicom), ("sleep 90", patiently(there))]
    output = clone.type(
        "trap 'trap - TERM; kill 0' EXIT",
        first,
        before,
        f"sed -i '{'; '.join(changes)}' etc/*.*",
        f"export PATH=$PATH:/usr/sbin NOT_EXPORTED={etc}/not-exported PAUSE=0.1",
        f"Orthanc /{serve}",
        patiently(f"{ask} > answer"),
        block("docs/pacs.md", "watch --rules rules.yaml"),
        replaced(block("docs/pacs.md", "storescu"), tried),
        replaced(block("docs/pacs.md", "s3://hospital/archive/"), [*folder, *ports]),
        ".venv/bin/dermbatch down; trap - EXIT; kill $(jobs -p)",
        DERMBATCH_WATCH__EVERY="1",
        DERMBATCH_WATCH__METRICS_PORT="0",
    )
    assert '"SEG"' in output
    assert "pacs:main" in output
