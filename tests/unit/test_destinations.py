"""Where results may go, and what their folders are called."""

import pytest
from standins import Store

from dermbatch.errors import ObjectNotFound, UsageError
from dermbatch.settings import Settings
from dermbatch.settings.destinations import DicomwebSettings
from orchestrator.planning.destinations import check_destination, check_output
from orchestrator.stack.environment import plain, settings_environment, without_credentials
from workers.process.output import folder_of


class Outside(Store):
    incoming_bucket = "incoming"

    def list(self, bucket, prefix):
        if bucket == "nowhere":
            raise ObjectNotFound("no such bucket in the object store (s3://nowhere)", reason="bucket_not_found")
        return super().list(bucket, prefix)


def test_a_destination_must_be_in_the_settings(monkeypatch):
    monkeypatch.setenv("DERMBATCH_DICOMWEB__MAIN__URL", "http://pacs:8042/dicom-web/")
    monkeypatch.setenv("DERMBATCH_DICOMWEB__MAIN__USER", "ward")
    monkeypatch.setenv("DERMBATCH_DICOMWEB__MAIN__PASSWORD", "open sesame")
    settings = Settings()
    assert isinstance(settings.dicomweb["main"], DicomwebSettings)
    assert "sesame" not in repr(settings)
    check_destination("main", settings)
    check_destination(None, settings)
    with pytest.raises(UsageError, match="they have: main"):
        check_destination("other", settings)


@pytest.mark.parametrize(
    ("output", "inputs", "wrong"),
    [
        ("out", ["a"], "--output"),
        ("s3://results/x", ["a"], "own bucket"),
        ("s3://incoming/x", ["a"], "own bucket"),
        ("s3://hospital/in/out", ["s3://hospital/in/"], "below an input"),
        ("s3://hospital/in", ["s3://hospital/"], "below an input"),
        ("s3://hospital/out", ["one/a", "two/a"], "the same name"),
        ("s3://nowhere/x", ["a"], "no such bucket"),
    ],
)
def test_an_output_that_cannot_be(output, inputs, wrong):
    with pytest.raises(UsageError, match=wrong):
        check_output(output, inputs, Outside())


@pytest.mark.parametrize("output", [None, "s3://hospital/out", "s3://hospital"])
def test_an_output_that_can(output):
    check_output(output, ["a", "b", "s3://hospital/in/"], Outside())


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("a.dcm", "s3://b/out/a.dcm"),
        ("s3://hospital/in/a.dcm", "s3://b/out/hospital/in/a.dcm"),
        ("export.zip/x/IM1#frame=2", "s3://b/out/export.zip/x/IM1#frame=2"),
        ("Bläschen 2.dcm", "s3://b/out/Bläschen 2.dcm"),
    ],
)
def test_a_name_stays_as_it_is(name, folder):
    assert folder_of("s3://b/out/", name) == folder


@pytest.mark.parametrize(
    "name", ["../../a", "/a", "a//b", "a\nb", "a\x00", "a?b", "a" * 300, "/".join("abc" * 400), "皮" * 100]
)
def test_a_name_that_is_not_safe_gets_a_digest(name):
    made = folder_of("s3://b/out", name)
    assert made.startswith("s3://b/out/")
    path = made.removeprefix("s3://b/out/")
    assert not set(path) & set("\n\x00?")
    assert not {"", ".", ".."} & set(path.split("/"))
    assert path[-9] == "~"
    assert len(path) < 600


@pytest.mark.parametrize("prefix", ["out", "p" * 600, "ö" * 400])
@pytest.mark.parametrize("name", ["/".join(["皮膚" * 42] * 6), "é" * 300, "/".join(["ab" * 60] * 9)])
def test_a_folder_fits_into_a_key_with_the_files_in_it(prefix, name):
    made = folder_of(f"s3://b/{prefix}", name)
    assert made.startswith(f"s3://b/{prefix}/")
    assert len(made.removeprefix("s3://b/").encode()) + len("/segmentation.dcm") <= 1024
    assert all(len(part.encode()) <= 255 for part in made.removeprefix(f"s3://b/{prefix}/").split("/"))
    assert made != folder_of(f"s3://b/{prefix}", name + "x")


def test_names_that_look_alike_have_folders_of_their_own():
    names = ["a?b", "a*b", "a_b", "a/../b", "a/b", "a//b"]
    assert len({folder_of("s3://b/out", name) for name in names}) == len(names)


def test_what_lets_us_into_a_pacs_is_told_to_processes_and_not_to_files(monkeypatch):
    one = {"url": "http://pacs", "user": "ward", "password": "open sesame", "ca_file": "/etc/ca.pem"}
    settings = Settings(dicomweb={"main": DicomwebSettings(**one)})
    kept = plain(without_credentials(settings))
    assert "sesame" not in str(kept)
    assert Settings(**kept).dicomweb["main"].url == "http://pacs"
    for name, value in settings_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings
