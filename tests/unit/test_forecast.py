"""How long a batch will still take, judged by the work that is left."""

import random
from types import SimpleNamespace

import pytest

from dermbatch.ledger.batches import Spent
from orchestrator.dispatch.forecast import Forecast

SLOTS = 4


def after(*stretches, copies=0, enlarging=True, total=1000):
    """The seconds that are told once workers went through these: kind, images, seconds of each."""
    forecast, spent, now, done = Forecast(), {}, 0.0, 0
    forecast.note(SimpleNamespace(spent={}), now)
    for kind, images, seconds in stretches:
        for _ in range(images):
            before = spent.get(kind, Spent(0, 0.0))
            spent = {**spent, kind: Spent(before.images + 1, before.seconds + seconds)}
            now += seconds / SLOTS
            done += 1
            forecast.note(SimpleNamespace(spent=spent), now)
    return forecast.left(total - done, copies, enlarging=enlarging)


def mixed(images, share, seed=1):
    drawn = random.Random(seed)
    return [("enlarged", 1, 10.0) if drawn.random() < share else ("plain", 1, 0.1) for _ in range(images)]


def test_a_mixture_is_told_by_the_shares_of_its_kinds():
    stretches = mixed(200, 0.3)
    each = sum(seconds for _, _, seconds in stretches) / 200
    assert after(*stretches) == pytest.approx(800 * each / SLOTS, rel=0.1)


@pytest.mark.parametrize(
    ("stretches", "why"),
    [
        ([("plain", 9, 0.1)], "nine tell nothing"),
        ([("plain", 50, 0.1)], "one in fifty may be enlarged yet, and would take twice the time of all"),
        ([("plain", 40, 0.1), ("enlarged", 1, 10.0)], "one enlarged tells no share"),
        (
            [("enlarged", 100, 10.0), ("plain", 3000, 0.1)],
            "those without a lesion come last: in an order of their own",
        ),
        ([], "nothing has ended"),
    ],
)
def test_what_nobody_can_tell_is_unknown(stretches, why):
    assert after(*stretches, total=5000) is None, why


def test_without_small_lesions_ten_images_tell():
    assert after(("plain", 10, 0.1), enlarging=False) == pytest.approx(990 * 0.1 / SLOTS)
    assert after(("known", 20, 0.05)) == pytest.approx(980 * 0.05 / SLOTS)
    assert after(("plain", 200, 0.1)) == pytest.approx(800 * 0.1 / SLOTS)


def test_copies_take_what_copies_took_and_not_what_their_originals_take():
    told = after(("enlarged", 100, 10.0), ("copy", 10, 0.05), copies=510)
    assert told == pytest.approx((500 * 0.05 + 390 * 10.0) / SLOTS, rel=0.01)
    assert after(("enlarged", 100, 10.0), ("copy", 10, 0.05), copies=900) == pytest.approx(
        (890 * 0.05) / SLOTS, rel=0.01
    )


def test_what_was_refused_takes_nothing():
    assert after(*[("refused", 1, 0.0), ("plain", 1, 0.2)] * 100) == pytest.approx(800 * 0.1 / SLOTS)


def test_a_batch_that_stands_still_takes_ever_longer():
    forecast = Forecast()
    spent = {"plain": Spent(200, 20.0)}
    forecast.note(SimpleNamespace(spent={}), 0.0)
    forecast.note(SimpleNamespace(spent=spent), 5.0)
    first = forecast.left(800, 0, enlarging=True)
    forecast.note(SimpleNamespace(spent=spent), 50.0)
    assert forecast.left(800, 0, enlarging=True) == pytest.approx(10 * first)
