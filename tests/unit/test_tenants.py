"""Tenants: what their file may say, what each may ask for, and how much of its quota is left."""

import json
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import pytest
from standins import Store
from typer.testing import CliRunner

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.records.asked import BatchControl, BatchSummary, Filters, ModelChoice, Order
from dermbatch.settings import Settings, TenantSettings
from dermbatch.stages import Stage
from dermbatch.stored import write
from orchestrator.cli import options
from orchestrator.cli.app import out
from orchestrator.cli.program import application
from orchestrator.planning import submission
from orchestrator.planning.intake.candidates import Candidate
from orchestrator.planning.models import Offer
from orchestrator.planning.planner import plan
from orchestrator.planning.resegment import resegment_order
from orchestrator.planning.tenants.attainment import Attained, attained
from orchestrator.planning.tenants.quota import Reservations, Reserved, had, orphans
from orchestrator.planning.tenants.reservation import note_watching, within
from orchestrator.planning.tenants.tenant import Quota, Tenant, load_tenants
from orchestrator.watching.rules.rule import Rule
from tests.outcome_samples import batch_of, entry_of, write_manifest

NOW = datetime.now(UTC)
MONTH = f"{NOW:%Y-%m}"
FILE = """
tenants:
  - name: clinic-a
    prefixes: [s3://exports/clinic-a]
    outputs: [s3://results/clinic-a]
    models: {segment: [segment_lite, my_unet@4]}
    send_to: [main]
    lanes: [bulk]
    weight: 5
    quota: {open_images: 100, images_a_month: 1000, bytes_a_month: 5000}
  - name: clinic-b
    prefixes: [s3://clinic-b]
    shares: clinic-a
"""


@pytest.fixture
def settings(tmp_path):
    def of(text=FILE):
        file = tmp_path / "tenants.yaml"
        file.write_text(text)
        return Settings(tenants=TenantSettings(file=file))

    return of


@pytest.fixture
def tenants(settings):
    return load_tenants(settings())


def test_what_is_declared_is_there_and_without_a_file_any_name_is_a_tenant(tenants):
    assert [one.name for one in tenants.tenants] == ["clinic-a", "clinic-b"]
    assert tenants.named("clinic-a").prefixes == ("s3://exports/clinic-a/",)
    assert load_tenants(Settings()) is None
    order = submission.order(Settings(), ["purify"], {}, tenant="anybody")
    assert (order.tenant, order.shares, order.pool) == ("anybody", None, "anybody")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tenants: []", "tenants: Tuple should have at least 1 item"),
        ("tenants: [{name: a}, {name: a}]", "there are two tenants 'a'"),
        ("tenants: [{name: a.b}]", "take 1 to 40"),
        ("tenants: [{name: watch-a}]", "not starting with watch-"),
        (
            "tenants: [{name: a, prefixes: ['s3://x/y']}, {name: b, prefixes: ['s3://x/y/z']}]",
            "'a' and 'b' both claim what is below s3://x/y/z/",
        ),
        ("tenants: [{name: a, shares: b}]", "shares: there is no tenant 'b'"),
        ("tenants: [{name: a, prefixes: ['s3://x/*']}]", "is not a plain prefix"),
        ("tenants: [{name: a, prefixes: ['s3://dermbatch/batches']}]", "in one of the system's own buckets"),
        ("tenants: [{name: a, outputs: ['s3://incoming/x']}]", "in one of the system's own buckets"),
        ("tenants: [{name: a, quotas: {}}]", "Extra inputs are not permitted"),
        ("tenants: [{name: a, quota: {open_images: -1}}]", "greater than or equal to 0"),
        ("tenants: [", "is not YAML"),
    ],
)
def test_a_file_that_cannot_be_is_one_sentence(settings, text, complaint):
    with pytest.raises(UsageError, match=r".") as caught:
        load_tenants(settings(text))
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"tenant": "default"}, "there is no tenant 'default'"),
        ({"tenant": "clinic-c"}, "there is no tenant 'clinic-c'"),
        ({"lane": "live"}, "has no lane live (it has: bulk)"),
        ({"weight": 6}, "may have a weight of 5 at most"),
        ({"send_to": "other"}, "may not send to 'other'"),
        ({"output": "s3://results/clinic-ab"}, "is not below an output"),
        ({"output": "s3://results"}, "is not below an output"),
    ],
)
def test_what_a_tenant_may_not_ask_for_is_refused(settings, asked, complaint):
    with pytest.raises(UsageError) as caught:
        submission.order(settings(), ["purify"], {}, **{"tenant": "clinic-a", **asked})
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("model", "may"),
    [
        (ModelChoice(name="segment_lite"), True),
        (ModelChoice(name="segment_lite", version="3"), True),
        (ModelChoice(name="my_unet", version="4"), True),
        (ModelChoice(name="my_unet", version="5"), False),
        (ModelChoice(name="my_unet"), False),
        (ModelChoice(name="other"), False),
    ],
)
def test_models_are_those_that_a_tenant_may_use(tenants, model, may):
    order = Order(models={Stage.SEGMENT: model, Stage.PURIFY: ModelChoice(name="any")}, tenant="clinic-a")
    if may:
        assert tenants.named("clinic-a").admitted(order) == order
    else:
        with pytest.raises(UsageError, match=r"may not use .* for segment .it may use: segment_lite, my_unet@4"):
            tenants.named("clinic-a").admitted(order)


@pytest.mark.parametrize(
    ("uri", "own"),
    [
        ("s3://exports/clinic-a/", True),
        ("s3://exports/clinic-a/2026/1.dcm", True),
        ("s3://exports/clinic-a", False),  # as a prefix it would take what is of clinic-a2, too
        ("s3://exports/clinic-ab/1.dcm", False),
        ("s3://exports/", False),
        ("s3://clinic-a/", False),
        ("s3://", False),
        ("exports/clinic-a/", False),
    ],
)
def test_a_prefix_is_a_tenants_where_all_below_it_is(tenants, uri, own):
    assert tenants.named("clinic-a").owns(uri) is own


def test_inputs_outside_of_a_tenants_prefixes_are_refused_and_own_uploads_are_not(settings):
    order = submission.order(settings(), ["purify"], {}, tenant="clinic-a")
    inputs = ["s3://exports/clinic-a/x/", "s3://incoming/desk/mine/"]
    with pytest.raises(UsageError, match="s3://incoming/desk/mine/ is not below a prefix of tenant 'clinic-a'"):
        submission.prepare(order, inputs, settings(), Store(), None, filters=Filters())
    submission.check_inputs(order, ["folder", *inputs[:1]], settings())


def test_names_of_batches_begin_with_their_tenant_and_say_nothing_of_others(settings):
    declared = settings()
    assert submission.name_for("monday", "clinic-a", declared) == "clinic-a.monday"
    assert submission.name_for("clinic-a.monday", "clinic-a", declared) == "clinic-a.monday"
    assert submission.name_for("clinic-a.monday", "clinic-b", declared) == "clinic-b.clinic-a.monday"
    assert submission.name_for(None, "clinic-b", declared).startswith("clinic-b.batch-")
    assert submission.name_for("monday", "clinic-a", Settings()) == "monday"
    with pytest.raises(UsageError, match="cannot be used"):
        submission.name_for("x" * 95, "clinic-a", declared)
    assert layout.is_owned("watch-clinic-a.urgent-20260302", "clinic-a")
    for other in ("monday", "clinic-ab.monday", "clinic-b.clinic-a.monday", "clinic-a", "watch-x-clinic-a.y"):
        assert not layout.is_owned(other, "clinic-a")


def test_a_rule_of_a_tenant_makes_batches_of_its_name():
    rule = Rule(name="urgent", prefix="s3://exports/clinic-a", tenant="clinic-a")
    assert rule.batch == "watch-clinic-a.urgent"
    assert rule.order(Settings()).tenant == "clinic-a"
    assert Rule(name="urgent", prefix="s3://exports").order(Settings()).tenant == "default"
    with pytest.raises(ValueError, match="more than 75 characters together"):
        Rule(name="u" * 70, prefix="s3://exports", tenant="clinic-a")


@pytest.fixture
def used():
    """A store with batches of two tenants: open, closed, of another month, and one that is planned."""
    store = Store()
    earlier = NOW - timedelta(days=31)
    for batch, is_open in (
        (batch_of("clinic-a.one", 40, tenant="clinic-a", bytes=1000), True),
        (batch_of("watch-clinic-a.urgent-20260302", 20, tenant="clinic-a", bytes=500), True),
        (batch_of("clinic-a.two", 30, tenant="clinic-a", bytes=300), False),
        (batch_of("clinic-a.old", 900, tenant="clinic-a"), False),
        (batch_of("clinic-b.one", 7000, tenant="clinic-b"), True),
        (batch_of("clinic-ab.one", 7000, tenant="clinic-ab"), True),
    ):
        created = earlier if batch.name == "clinic-a.old" else NOW
        write(store, layout.batch_record(batch.name), batch.model_copy(update={"created": created}))
        if is_open:
            write(store, layout.control(batch.name), BatchControl())
    write(store, layout.control("clinic-a.planned"), BatchControl())
    return store


def test_what_is_used_of_a_quota_is_told_from_a_tenants_own_batches(used):
    used.requests.clear()
    found = had(used, "clinic-a", NOW)
    assert (found.open_images, found.month, found.images, found.bytes) == (60, MONTH, 90, 1800)
    assert found.open_batches == ("clinic-a.one", "clinic-a.planned", "watch-clinic-a.urgent-20260302")
    assert all(
        "clinic-a." in key or key == layout.tenant_quota("clinic-a")
        for what, key in used.requests
        if what == "get"
    )


@pytest.mark.parametrize(
    ("quota", "images", "complaint"),
    [
        ({}, 10_000, None),
        ({"open_images": 70}, 10, None),
        ({"open_images": 70}, 11, "is 70 open images: it has 60, and these are 11 or more; nothing was begun"),
        ({"images_a_month": 90}, 1, f"is 90 images in {MONTH}: it has 90"),
        ({"bytes_a_month": 1849}, 5, f"is 1,849 bytes in {MONTH}: it has 1,800, and these are 50 or more"),
    ],
)
def test_a_plan_beyond_a_quota_is_refused_and_leaves_no_batch(used, quota, images, complaint):
    if complaint is None:
        assert planned(used, quota, "clinic-a.new", images).bytes == 10 * images
        return
    with pytest.raises(UsageError) as caught:
        planned(used, quota, "clinic-a.new", images)
    assert complaint in str(caught.value)
    assert "clinic-a.new" not in had(used, "clinic-a", NOW).open_batches
    assert not used.keys("clinic-a.new")


def planned(store, quota, name, images, meanwhile=lambda: None):
    """A plan of so many images of 10 bytes, at a tenant with this quota; something else happens in the middle."""
    order = Order(models={stage: ModelChoice(name="m") for stage in Stage}, tenant="clinic-a")
    tenant = Tenant(name="clinic-a", quota=Quota(**quota))

    def walk():
        for n in range(images):
            if n == images // 2:
                meanwhile()
            yield Candidate(name=f"{n}.png", uri=f"s3://incoming/{n}.png", size=10)

    with within(store, tenant, name) as check:
        return plan(name, order, walk(), store, check=check)


def test_two_plans_at_one_moment_do_not_pass_a_quota_together(used):
    quota = {"open_images": 1060}
    with pytest.raises(UsageError, match="it has 960, and these are 200 or more"):
        planned(used, quota, "clinic-a.second", 200, lambda: planned(used, quota, "clinic-a.first", 900))
    assert had(used, "clinic-a", NOW).images == 90 + 900


def test_what_a_plan_has_reserved_counts_until_it_is_a_batch_or_its_planner_is_dead_for_long(used):
    quota, seen = {"open_images": 5000}, []
    planned(used, quota, "clinic-a.large", 2200, lambda: seen.append(had(used, "clinic-a", NOW).open_images))
    assert seen == [1060], "the first part of the plan"
    assert had(used, "clinic-a", NOW).open_images == 60 + 2200
    now = datetime.now(UTC)
    dead = {"created": now, "images": 4000, "bytes": 0}
    for until, may in ((now + timedelta(minutes=1), False), (now - timedelta(seconds=1), True)):
        write(
            used,
            layout.tenant_quota("clinic-a"),
            Reservations(batches={"clinic-a.x": Reserved(until=until, **dead)}),
        )
        with nullcontext() if may else pytest.raises(UsageError, match="it has 6,260"):
            planned(used, quota, "clinic-a.next", 10)


def test_open_batches_of_a_tenant_that_is_declared_no_more_are_named(used):
    assert orphans(used, ["clinic-a", "clinic-b", "clinic-ab"]) == {}
    assert orphans(used, ["clinic-a", "clinic-ab"]) == {"clinic-b": ["clinic-b.one"]}


def test_batches_of_several_tenants_become_no_resegmented_one(used):
    asked = Order(models={Stage.SEGMENT: ModelChoice(name="my_unet", version="4")})
    with pytest.raises(UsageError, match=r"of several tenants.*\(clinic-a, clinic-b\)"):
        resegment_order(asked, ["clinic-a.one", "clinic-b.one"], used)
    assert resegment_order(asked, ["clinic-a.one", "clinic-a.two"], used).tenant == "clinic-a"


def test_the_command_shows_what_is_used_and_names_batches_of_tenants_that_are_gone(used, settings, monkeypatch):
    monkeypatch.setattr(options, "results", lambda home: nullcontext(used))
    monkeypatch.setattr(options, "attach", lambda home: settings())
    runner = CliRunner()
    found = runner.invoke(application(["tenants"]), ["tenants", "--json"], env={"COLUMNS": "200"})
    shown = json.loads(found.stdout)
    assert found.exit_code == 1
    assert shown["left"] == {"clinic-ab": ["clinic-ab.one"]}
    assert "tenant 'clinic-ab' is not declared, and has 1 open batches (clinic-ab.one): they go on" in found.stderr
    assert [(one["name"], one["has"]["open_images"]) for one in shown["tenants"]] == [
        ("clinic-a", 60),
        ("clinic-b", 7000),
    ]
    monkeypatch.setattr(out, "_width", 200)  # as wide as whatever made it first found the terminal
    note_watching(used, "clinic-a", "the quota is spent")
    shown = runner.invoke(application(["tenants"]), ["tenants"])
    assert "60 of 100" in shown.stdout
    assert "watch takes in nothing more for tenant 'clinic-a' for now: the quota is spent" in shown.stderr
    monkeypatch.setattr(options, "attach", lambda home: Settings())
    undeclared = runner.invoke(application(["tenants"]), ["tenants"])
    assert "no tenants are declared" in str(undeclared.exception)


def test_what_was_attained_of_objectives_is_told_from_summaries_of_the_month(used):
    def close(name, **fields):
        whole = {"images": 100, "done": 100, "failed": 0, "reasons": {}, "stage_seconds": {}, "stage_runs": {}}
        times = {
            "created": NOW,
            "closed": NOW,
            "last_finished": NOW,
            "image_seconds": 1,
            "slots": 1,
            "software": "",
        }
        write(used, layout.summary(name), BatchSummary(name=name, **whole | times | fields))

    assert attained(used, "clinic-a", NOW) == Attained()
    close("clinic-a.one", late=4, deadline=NOW)
    close("watch-clinic-a.urgent-20260302", late=8)
    close("clinic-a.two", deadline=NOW - timedelta(seconds=1))
    close("clinic-a.old", late=100, deadline=NOW, closed=NOW - timedelta(days=31))
    close("clinic-b.one", late=100)
    found = attained(used, "clinic-a", NOW)
    assert found == Attained(live=200, late=12, deadlines=2, met=1)
    assert (found.in_time, found.deadlines_met) == (0.94, 0.5)


def test_running_images_again_is_held_to_the_same(used, settings):
    write_manifest(used, batch_of("clinic-a.two", 30, tenant="clinic-a"), map(entry_of, range(30)))
    order = Order(models={Stage.SEGMENT: ModelChoice(name="my_unet", version="5")})
    offer = Offer("here", None)
    with pytest.raises(UsageError, match="may not use my_unet for segment"):
        submission.again("clinic-a.new", order, ["clinic-a.two"], settings(), used, offer)
    order = Order(models={Stage.SEGMENT: ModelChoice(name="my_unet", version="4")})
    few = settings(FILE.replace("open_images: 100", "open_images: 70"))
    with pytest.raises(UsageError, match="quota of tenant 'clinic-a' is 70 open images: it has 60"):
        submission.again("clinic-a.new", order, ["clinic-a.two"], few, used, offer)
    much = settings(FILE.replace("bytes_a_month: 5000", "bytes_a_month: 50000"))
    again = submission.again("clinic-a.new", order, ["clinic-a.two"], much, used, offer)
    assert (again.order.tenant, again.images) == ("clinic-a", 30)
