"""Rules: the first that takes an object decides; files that cannot be meant are refused with their line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermbatch.errors import UsageError
from dermbatch.records.asked import ModelChoice
from dermbatch.stages import ORDER, Stage
from orchestrator.watching.rules.rules import load_rules, rule_of_prefix

FULL = """\
profiles:
  research:
    dates: shift
rules:
  - name: urgent
    prefix: s3://exports/clinic-1/urgent/
    batches: hourly
  - name: clinic-1
    prefix: s3://exports/clinic-1
    include: ["*.dcm", "*.zip"]
    exclude: ["test/*"]
    lane: bulk
    weight: 5
    stages: [classify]
    models:
      segment: my_unet@4
      classify: my_net
    max_failed_share: 0.2
    support: demo@2
    dicom: true
    send_to: pacs
    output: s3://results/clinic-1
    deidentify: research
    marker: READY
    settle: 30
  - name: rest
    prefix: s3://exports
"""


@pytest.fixture
def book(tmp_path):
    return written(tmp_path, FULL)


def written(folder: Path, text: str):
    path = folder / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    return load_rules(path)


def test_every_field_arrives(book):
    urgent, clinic, rest = book.rules
    assert (urgent.prefix, urgent.batches) == ("s3://exports/clinic-1/urgent/", "hourly")
    assert clinic.model_dump() == {
        "name": "clinic-1",
        "prefix": "s3://exports/clinic-1/",
        "include": ("*.dcm", "*.zip"),
        "exclude": ("test/*",),
        "lane": "bulk",
        "weight": 5,
        "batches": "daily",
        "stages": (Stage.SEGMENT, Stage.CLASSIFY),
        "models": {
            Stage.SEGMENT: ModelChoice(name="my_unet", version="4").model_dump(),
            Stage.CLASSIFY: ModelChoice(name="my_net").model_dump(),
        },
        "max_failed_share": 0.2,
        "support": "demo@2",
        "dicom": True,
        "send_to": "pacs",
        "output": "s3://results/clinic-1/",
        "deidentify": "research",
        "marker": "READY",
        "tenant": None,
        "settle": 30,
    }
    assert (rest.prefix, rest.lane, rest.stages, rest.models) == ("s3://exports/", "live", ORDER, {})
    assert book.profiles["research"].dates == "shift"
    assert book.profiles["research"].name == "research"


@pytest.mark.parametrize(
    ("bucket", "key", "rule"),
    [
        ("exports", "clinic-1/urgent/1.png", "urgent"),
        ("exports", "clinic-1/study/1.dcm", "clinic-1"),
        ("exports", "clinic-1/1.zip", "clinic-1"),
        ("exports", "clinic-1/1.DCM", "rest"),
        ("exports", "clinic-1/test/1.dcm", "rest"),
        ("exports", "clinic-10/1.dcm", "rest"),
        ("exports", "clinic-1", "rest"),
        ("exports2", "clinic-1/1.dcm", None),
        ("export", "s/clinic-1/1.dcm", None),
    ],
)
def test_the_first_rule_that_takes_an_object_decides(book, bucket, key, rule):
    found = book.rule_for(bucket, key)
    assert (found.name if found else None) == rule


def test_each_rule_says_why_it_does_not_fire(book):
    def explained(key):
        return [(one.fires, one.failed) for one in book.explain("exports", key)]

    assert explained("clinic-1/1.dcm") == [(False, "prefix"), (True, None), (False, "earlier")]
    assert explained("clinic-1/1.png") == [(False, "prefix"), (False, "include"), (True, None)]
    assert explained("clinic-1/test/1.dcm") == [(False, "prefix"), (False, "exclude"), (True, None)]
    assert explained("clinic-1/a/READY") == [(False, "prefix"), (False, "marker"), (True, None)]


KEYS = st.text(alphabet="clinic-1/urgenttest.dmzpREADY0", max_size=30)


@given(key=KEYS | KEYS.map(lambda key: f"clinic-1/{key}") | KEYS.map(lambda key: f"clinic-1/{key}.dcm"))
def test_what_is_explained_is_what_happens(tmp_path_factory, key):
    book = written(tmp_path_factory.mktemp("rules"), FULL)
    explained = book.explain("exports", key)
    fired = [one.rule for one in explained if one.fires]
    decides = book.rule_for("exports", key)
    assert fired == ([decides] if decides else [])
    assert [one.rule for one in explained] == list(book.rules)
    assert all((one.failed is None) == one.fires for one in explained)


RULE = "rules:\n  - name: one\n    prefix: s3://exports\n"

REFUSED = {
    "empty": ("", "no rules in it"),
    "no list": ("rules: 3\n", "line 1: rules: input should be a valid list"),
    "no rules": ("rules: []\n", "line 1: rules: list should have at least 1 item"),
    "no yaml": ("rules: [\n", "not YAML"),
    "a control character": ("rules: \x01\n", "not YAML"),
    "an object of Python": ("rules: !!python/object/apply:os.getcwd []\n", "line 1: not YAML"),
    "deep": ("[" * 1000, "not YAML"),
    "itself": ("rules: &a\n  - *a\n", "line 1: rules: input should be"),
    "a list as a key": ("? [a, [b, {c: d}]]\n: x\n", "line 1: not YAML"),
    "key twice": (RULE + "    prefix: s3://other\n", "line 4: 'prefix' occurs twice"),
    "top key twice": (RULE + "rules: []\n", "line 4: 'rules' occurs twice"),
    "top unknown": (RULE + "rule: 3\n", "line 4: rule: there is no such field; there are profiles, rules"),
    "unknown": (RULE + "    lanes: live\n", "line 4: rule 'one': lanes: there is no such field"),
    "missing": ("rules:\n  - name: one\n", "line 2: rule 'one': prefix: field required"),
    "no name": ("rules:\n  - prefix: s3://b\n", "line 2: rule 1: name: field required"),
    "name": ("rules:\n  - name: Üne\n    prefix: s3://b\n", "rule name 'Üne' cannot be used"),
    "long name": (f"rules:\n  - name: {'a' * 76}\n    prefix: s3://b\n", "has more than 75 characters"),
    "number for a name": ("rules:\n  - name: 1\n    prefix: s3://b\n", "line 2: rule 1: name: input should be"),
    "lane": (RULE + "    lane: fast\n", "line 4: rule 'one': lane: input should be 'live' or 'bulk'"),
    "weight as text": (RULE + "    weight: '3'\n", "weight: input should be a valid integer"),
    "weight": (RULE + "    weight: 0\n", "weight: input should be greater than or equal to 1"),
    "share": (RULE + "    max_failed_share: 20\n", "max_failed_share: input should be less than or equal to 1"),
    "text for a switch": (RULE + "    dicom: 'yes'\n", "dicom: input should be a valid boolean"),
    "settle": (RULE + "    settle: -1\n", "settle: input should be greater than or equal to 0"),
    "settle for ever": (RULE + "    settle: .inf\n", "settle: input should be less than"),
    "one pattern": (RULE + "    include: '*.png'\n", "include: input should be a valid tuple"),
    "empty pattern": (RULE + "    include:\n      - '*.png'\n      - ''\n", "line 6: rule 'one': include: ''"),
    "pattern from the root": (RULE + "    exclude: [/a/*]\n", "exclude: '/a/*' can match nothing"),
    "pattern with its bucket": (
        RULE + "    include: ['s3://b/*']\n",
        "patterns are for the path below the prefix",
    ),
    "stage": (RULE + "    stages: [segment, heal]\n", "stages: input should be 'purify', 'segment'"),
    "no stage": (RULE + "    stages: []\n", "stages: tuple should have at least 1 item"),
    "model's stage": (RULE + "    models: {heal: a}\n", "models: heal: input should be"),
    "model": (RULE + "    models:\n      segment: a@b@c\n", "line 5: rule 'one': models: segment: 'a@b@c': write"),
    "model of another stage": (RULE + "    stages: [purify]\n    models: {classify: a}\n", "classify has a model"),
    "marker": (
        RULE + "    marker: a/READY\n",
        "marker: 'a/READY' is not the name of an object without its folder",
    ),
    "prefix": ("rules:\n  - name: one\n    prefix: /data\n", "line 3: rule 'one': prefix: not an s3://"),
    "bucket": ("rules:\n  - name: one\n    prefix: s3://a b/c\n", "prefix: 'a b' is not a bucket name"),
    "pattern as prefix": (
        "rules:\n  - name: one\n    prefix: s3://b/*/c\n",
        "put patterns into include and exclude",
    ),
    "output": (RULE + "    output: results\n", "output: not an s3://bucket/key URI"),
    "output watched": (
        RULE + "    output: s3://exports/out\n",
        "line 4: rule 'one': output: s3://exports/out/ lies",
    ),
    "output watched by another": (
        RULE + "    output: s3://other/out\n  - name: two\n    prefix: s3://other\n",
        "lies below s3://other/, which rule 'two' watches",
    ),
    "name twice": (
        RULE + "  - name: one\n    prefix: s3://other\n",
        "line 4: rule 'one': another rule has this name",
    ),
    "never": (RULE + "  - name: two\n    prefix: s3://exports/a\n", "line 4: rule 'two' can never fire: 'one'"),
    "profile": (RULE + "    deidentify: basic\n", "line 4: rule 'one': deidentify: there is no profile 'basic'"),
    "profile's field": (
        "profiles:\n  a:\n    dates: hide\n" + RULE,
        "line 3: profile 'a': dates: input should be",
    ),
    "profile's name": ("profiles:\n  a:\n    name: b\n" + RULE, "line 3: profile 'a': its name is what stands"),
}


@pytest.mark.parametrize(("text", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused_with_its_place(tmp_path, text, sentence):
    with pytest.raises(UsageError) as caught:
        written(tmp_path, text)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "rules.yaml"))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_rules(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="larger than"):
        written(tmp_path, RULE + "#" * (1 << 20))


@given(text=st.text(max_size=60) | st.text(alphabet="rules:-namprefix&*![]{}\n 's3/1.", max_size=80))
def test_any_text_is_rules_or_a_usage_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_rules(path)
    except UsageError:
        return
    raise AssertionError(f"taken for rules: {text!r}")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("include: ['*.dcm']", ""),
        ("exclude: [tmp/*]", ""),
        ("include: ['*.dcm']", "include: ['*.dcm', '*.png']"),
        ("exclude: [tmp/*]", "exclude: [test/*]"),
    ],
)
def test_a_rule_that_is_left_something_may_come_later(tmp_path, first, second):
    head = f"{RULE}    {first}\n  - name: two\n    prefix: s3://exports\n"
    assert len(written(tmp_path, head + (f"    {second}\n" if second else "")).rules) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("include: ['*']", ""),
        ("include: ['*.dcm', '*.png']", "include: ['*.png']"),
        ("exclude: [tmp/*]", "exclude: [tmp/*, test/*]"),
    ],
)
def test_a_rule_that_is_left_nothing_may_not(tmp_path, first, second):
    head = f"{RULE}    {first}\n  - name: two\n    prefix: s3://exports\n"
    with pytest.raises(UsageError, match="'two' can never fire"):
        written(tmp_path, head + (f"    {second}\n" if second else ""))


def test_prefixes_without_a_file_make_rules_of_their_own():
    book = rule_of_prefix("s3://Exports.of-clinic/Doe^Jane", "s3://other")
    assert [rule.prefix for rule in book.rules] == ["s3://Exports.of-clinic/Doe^Jane/", "s3://other/"]
    assert book.rule_for("other", "a.png") == book.rules[1]
    names = [rule.name for rule in book.rules]
    assert names == [rule.name for rule in rule_of_prefix("s3://Exports.of-clinic/Doe^Jane/", "s3://other").rules]
    assert names[0].startswith("exports-of-clinic-")
    assert "doe" not in names[0].lower()
    assert len(rule_of_prefix(f"s3://{'a' * 63}/b").rules[0].name) <= 75


@pytest.mark.parametrize(
    "uris", [["data"], ["s3://"], ["s3://b/*"], ["s3://b", "s3://b/c"], ["s3://b/c", "s3://b"]]
)
def test_prefixes_that_cannot_be_watched_are_refused(uris):
    with pytest.raises(UsageError):
        rule_of_prefix(*uris)


def test_the_systems_own_buckets_are_neither_watched_nor_an_output(book):
    book.check_apart(["dermbatch", "incoming"])
    with pytest.raises(UsageError, match="'urgent' watches the bucket 'exports'"):
        book.check_apart(["exports"])
    with pytest.raises(UsageError, match="'clinic-1': output"):
        book.check_apart(["results"])
