"""``dermbatch rules``: what it prints and how it ends."""

import json
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from dermbatch.errors import UsageError
from orchestrator.cli.program import application

FILE = """\
profiles:
  research: {}
rules:
  - name: clinic
    prefix: s3://exports/clinic
    include: ["*.dcm"]
    batches: hourly
    stages: [segment, classify]
    models: {segment: my_unet@4}
    output: s3://results/clinic
    deidentify: research
    send_to: pacs
    marker: READY
    settle: 30
  - name: rest
    prefix: s3://exports
    exclude: ["tmp/*"]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(FILE, encoding="utf-8")
    return str(path)


def command(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(application(["rules"]), ["rules", *arguments])


def test_the_rule_that_fires_is_shown_with_all_that_it_does(file):
    before = datetime.now(UTC)
    result = command("test", file, "s3://exports/clinic/a/1.dcm", "--json")
    after = datetime.now(UTC)
    answer = json.loads(result.stdout)
    assert result.exit_code == 0
    assert [(rule["rule"], rule["fires"], rule["failed"]) for rule in answer["rules"]] == [
        ("clinic", True, None),
        ("rest", False, "earlier"),
    ]
    done = answer["done"]
    assert done.pop("batch") in {f"watch-clinic-{time:%Y%m%d-%H}" for time in (before, after)}
    assert datetime.fromisoformat(done.pop("open_until")) > before
    assert done.pop("deidentify")["name"] == "research"
    assert done == {
        "rule": "clinic",
        "lane": "live",
        "weight": 1,
        "stages": ["segment", "classify"],
        "models": {"segment": "my_unet@4", "classify": "classify_lite"},
        "max_failed_share": None,
        "support": None,
        "dicom": True,
        "send_to": "pacs",
        "output": "s3://results/clinic/",
        "marker": "READY",
        "tenant": "default",
        "settle": 30,
    }


def test_people_are_told_the_same(file):
    result = command("test", file, "s3://exports/clinic/a/1.png")
    assert result.exit_code == 0
    clinic, rest = (line for line in result.stdout.splitlines() if line.split()[:1] in (["clinic"], ["rest"]))
    assert "no: include" in clinic
    assert "no pattern of include matches" in clinic
    assert "fires" in rest
    assert "watch-rest-" in result.stdout
    assert "purify, segment, enhance, classify" in result.stdout


def test_where_no_rule_fires_the_exit_code_is_1(file):
    result = command("test", file, "s3://exports/tmp/1.dcm")
    assert result.exit_code == 1
    assert "no: prefix" in result.stdout
    assert "no: exclude" in result.stdout
    assert "No rule takes this object" in result.stdout
    answer = json.loads(command("test", file, "s3://exports/tmp/1.dcm", "--json").stdout)
    assert answer["done"] is None


@pytest.mark.parametrize("uri", ["clinic/1.dcm", "s3://exports", "s3://exports/", "https://exports/1.dcm"])
def test_what_is_no_object_is_a_usage_error(file, uri):
    assert isinstance(command("test", file, uri).exception, UsageError)  # main() makes exit code 2 of it


def test_check_lists_the_rules_of_a_right_file(file):
    result = command("check", file)
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["clinic", "rest"]
    assert [rule["name"] for rule in json.loads(command("check", file, "--json").stdout)] == ["clinic", "rest"]


@pytest.mark.parametrize("arguments", [("check",), ("test", "s3://exports/1.dcm")])
def test_a_wrong_file_is_a_usage_error_with_its_line(tmp_path, arguments):
    path = tmp_path / "rules.yaml"
    path.write_text(FILE + "    lane: fast\n", encoding="utf-8")
    first, *others = arguments
    error = command(first, str(path), *others).exception
    assert isinstance(error, UsageError)
    assert "line 18: rule 'rest': lane: input should be 'live' or 'bulk'" in str(error)


def test_a_file_that_watches_the_systems_own_bucket_is_a_usage_error(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text("rules:\n  - name: loop\n    prefix: s3://dermbatch\n", encoding="utf-8")
    error = command("check", str(path)).exception
    assert isinstance(error, UsageError)
    assert "its own files would be taken for new images" in str(error)
