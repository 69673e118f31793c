"""Supports: what is kept of them, what is refused, and what a worker shows a one-shot model."""

import numpy as np
import pytest

from dermbatch import layout
from dermbatch.errors import ModelContractError, SupportGone, UsageError
from dermbatch.models.served import ServedModel
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.settings import Settings, TenantSettings
from dermbatch.stages import Stage
from dermbatch.supports import kept
from orchestrator.planning import submission
from orchestrator.planning.models import Offer
from orchestrator.planning.support import fits, pinned, whose
from tests.unit.standins import Store, Triton
from workers.image import steps
from workers.image.support import prototypes

PLAIN = ServedModel("plain", "1", "aa" * 32, 4, {"IMAGE": (-1, -1, 3), "LESION": (-1, -1)})
ONESHOT = ServedModel(
    "oneshot",
    "3",
    "bb" * 32,
    4,
    {"IMAGE": (-1, -1, 3), "PROTOTYPES": (2,), "LESION": (-1, -1)},
    {"support_model": "encoder"},
)
ENCODER = ServedModel("encoder", "3", "cc" * 32, 4, {"IMAGE": (-1, -1, 3), "MASK": (-1, -1), "PROTOTYPES": (2,)})


def drawn(seed=0, height=30, width=40):
    image = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[5:15, 10:20] = 255
    return image, mask


def encoded(IMAGE, MASK):  # noqa: N803 - the tensors' names
    return {"PROTOTYPES": np.array([IMAGE.mean(), (MASK > 0).mean()], np.float32)}


def whole(IMAGE, PROTOTYPES):  # noqa: N803
    assert PROTOTYPES.shape == (2,)
    return {"LESION": np.where(IMAGE.mean(axis=2) > PROTOTYPES[0], np.uint8(255), np.uint8(0))}


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def triton():
    return Triton({"encoder": encoded, "oneshot": whole}, {None: ENCODER, Stage.SEGMENT: ONESHOT})


def job(support, model="oneshot"):
    order = Order(stages=(Stage.SEGMENT,), models={Stage.SEGMENT: ModelChoice(name=model)}, support=support)
    return ImageJob(batch="b", index=0, name="a", source="s3://x/y", order=order)


def test_a_support_grows_by_versions_and_keeps_its_disease(store):
    first = kept.add(store, "demo", *drawn(1), "granuloma annulare")
    second = kept.add(store, "demo", *drawn(2))
    assert [(one.version, len(one.shots), one.disease) for one in (first, second)] == [
        (1, 1, "granuloma annulare"),
        (2, 2, "granuloma annulare"),
    ]
    assert first.shots == second.shots[:1]
    assert first.sha256 != second.sha256
    assert kept.named(store, "demo") == second
    assert kept.named(store, "demo@1") == first
    assert [one.name for one in kept.all_newest(store)] == ["demo"]
    image, mask = kept.pictures(store, "demo", second.shots[1])
    np.testing.assert_array_equal(image, drawn(2)[0])
    np.testing.assert_array_equal(mask, drawn(2)[1])
    kept.remove(store, "demo")
    assert not store.objects


def test_equal_pictures_have_equal_digests_whatever_their_set_is_called(store):
    assert kept.add(store, "a", *drawn()).sha256 == kept.add(store, "b", *drawn()).sha256


def test_large_pictures_are_kept_as_models_are_sent_them(store):
    image, mask = np.zeros((1500, 2048, 3), np.uint8), np.zeros((1500, 2048), np.uint8)
    mask[300:900, 500:1500] = 255
    shot = kept.add(store, "demo", image, mask).shots[0]
    assert (shot.height, shot.width) == (750, 1024)
    found = kept.pictures(store, "demo", shot)[1]
    assert set(np.unique(found)) == {0, 255}


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (np.ones((30, 41), np.uint8), "the mask is 41 x 30 pixels, the image 40 x 30"),
        (np.zeros((30, 40), np.uint8), "the mask is empty"),
        (np.ones((30, 40), np.uint8), "the mask is full"),
    ],
)
def test_a_mask_that_says_nothing_is_refused(store, mask, why):
    with pytest.raises(UsageError, match=why):
        kept.add(store, "demo", drawn()[0], mask)
    assert not store.objects


@pytest.mark.parametrize("name", ["demo", "demo@7", "demo@x"])
def test_a_support_that_is_not_there_is_told_with_those_that_are(store, name):
    kept.add(store, "other", *drawn())
    with pytest.raises(UsageError, match=r"there are other|write NAME or NAME@VERSION"):
        kept.named(store, name)


def test_a_packed_support_is_the_same_elsewhere(store):
    made, elsewhere = kept.add(store, "demo", *drawn()), Store()
    packed = kept.PackedSupport.of(store, made)
    packed.put(elsewhere)
    assert kept.named(elsewhere, "demo@1") == made
    assert elsewhere.objects == store.objects


def test_a_support_is_pinned_in_the_order_and_fits_its_model(store):
    made = kept.add(store, "demo", *drawn())
    plain, shown = (
        Order(stages=(Stage.SEGMENT,), models={Stage.SEGMENT: ModelChoice(name=name)})
        for name in ("plain", "oneshot")
    )
    offer = Offer("there", {"plain": ["1"], "oneshot": ["3"]}, frozenset({"oneshot"}))
    assert pinned(shown, "demo", store, Settings()).support == made.choice
    assert pinned(plain, None, store, Settings()) is plain
    fits(pinned(shown, "demo", store, Settings()), offer)
    fits(plain, offer)
    fits(shown, Offer("there", None))  # nobody knows
    with pytest.raises(UsageError, match="needs a support"):
        fits(shown, offer)
    with pytest.raises(UsageError, match="plain takes no support; those that do: oneshot"):
        fits(pinned(plain, "demo", store, Settings()), offer)
    unsegmented = Order(stages=(Stage.PURIFY,), models={}, support=made.choice)
    with pytest.raises(UsageError, match="segment stage, which is not among the stages"):
        fits(unsegmented, offer)


def test_a_tenant_has_its_own_supports_and_learns_nothing_of_others(store, tmp_path):
    file = tmp_path / "tenants.yaml"
    file.write_text("tenants: [{name: a}, {name: b}]")
    settings = Settings(tenants=TenantSettings(file=file))
    full = [kept.owned("demo", whose(name, settings)) for name in ("a", "b")]
    assert full == ["a.demo", "b.demo"]
    mine, theirs = (kept.add(store, name, *drawn(seed)) for seed, name in enumerate(full))
    assert mine.sha256 != theirs.sha256
    order = {name: Order(stages=(Stage.SEGMENT,), models={}, tenant=name) for name in ("a", "b")}
    assert pinned(order["a"], "demo@1", store, settings).support == mine.choice
    assert pinned(order["a"], "a.demo", store, settings).support == mine.choice
    assert pinned(Order(stages=(Stage.SEGMENT,), models={}), "demo", store, settings, "b").support == theirs.choice
    kept.add(store, "b.secret", *drawn(3))
    for text in ("b.secret", "secret", "b.demo"):
        with pytest.raises(UsageError, match=r"there is no support .*; there are a\.demo\. Add") as refused:
            pinned(order["a"], text, store, settings)
        assert "b.demo" not in str(refused.value).partition(";")[2]
    assert [one.name for one in kept.all_newest(store, "a")] == ["a.demo"]
    stolen = order["a"].model_copy(update={"support": theirs.choice})
    with pytest.raises(UsageError, match=r"support b\.demo does not belong to tenant 'a'"):
        submission.admitted(stolen, settings)
    with pytest.raises(UsageError, match="there is no tenant 'default'"):
        whose("default", settings)
    assert whose("anybody", Settings()) is None


def test_the_stage_key_holds_the_support_and_records_say_it(store, triton):
    made = [kept.add(store, "demo", *drawn(seed), "ringworm") for seed in (1, 2)]
    (first,), (second,) = (steps.plan(job(one.choice), triton) for one in made)
    assert first.key != second.key
    assert first.stated["support"] == "demo@1"
    assert first.stated["support_sha256"] == made[0].sha256
    assert first.stated["support_disease"] == "ringworm"


def test_a_model_without_support_has_the_key_that_it_had(triton):
    triton.models[Stage.SEGMENT] = PLAIN
    (step,) = steps.plan(job(None, "plain"), triton)
    assert not {name for name in step.stated if name.startswith("support")}


def test_workers_refuse_a_model_and_a_support_that_do_not_fit(store, triton):
    made = kept.add(store, "demo", *drawn())
    with pytest.raises(ModelContractError, match="needs a support"):
        steps.plan(job(None), triton)
    triton.models[Stage.SEGMENT] = PLAIN
    with pytest.raises(ModelContractError, match="takes no support"):
        steps.plan(job(made.choice, "plain"), triton)


def test_prototypes_are_the_mean_over_pictures_and_made_once(store, triton):
    kept.add(store, "mean", *drawn(11))
    made = kept.add(store, "mean", *drawn(12))
    found = prototypes(made.choice, ONESHOT, triton, store)
    expected = np.mean([encoded(*drawn(seed))["PROTOTYPES"] for seed in (11, 12)], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    asked = len(triton.asked)
    prototypes(made.choice, ONESHOT, triton, store)
    assert len(triton.asked) == asked == 2


def test_a_support_that_was_removed_or_exchanged_is_told(store, triton):
    made = kept.add(store, "gone", *drawn(21))
    kept.remove(store, "gone")
    with pytest.raises(SupportGone, match="was removed or is damaged"):
        prototypes(made.choice, ONESHOT, triton, store)
    again = kept.add(store, "gone", *drawn(22))
    assert again.version == made.version
    with pytest.raises(SupportGone, match="has changed since the batch was submitted"):
        prototypes(made.choice, ONESHOT, triton, store)
    store.objects[store.bucket, layout.support_file("gone", again.shots[0].mask)] = b"damaged"
    with pytest.raises(SupportGone, match="was removed or is damaged"):
        prototypes(again.choice, ONESHOT, triton, store)


def test_a_model_beside_that_makes_other_prototypes_is_refused(store, triton):
    made = kept.add(store, "odd", *drawn(31))
    triton.functions["encoder"] = lambda IMAGE, MASK: {"PROTOTYPES": np.zeros(3, np.float32)}  # noqa: N803
    with pytest.raises(ModelContractError, match="takes 2 numbers of a support"):
        prototypes(made.choice, ONESHOT, triton, store)
    triton.functions["encoder"] = lambda IMAGE, MASK: {"PROTOTYPES": np.full(2, np.nan, np.float32)}  # noqa: N803
    with pytest.raises(ModelContractError, match="not all finite"):
        prototypes(made.choice, ONESHOT, triton, store)
