"""The order in which a worker looks into its lanes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermbatch.ledger.queue import QUEUES, LaneOrder

LIVE, BULK = QUEUES["live"], QUEUES["bulk"]


def order_of(share, queues=(BULK, LIVE)):
    order = LaneOrder(share)
    order.update(queues)
    return order


def take(order, waiting):
    """What Redis does: the first queue, in the order given, that holds a message."""
    queue = next(queue for queue in order.consume(2) if waiting[queue] > 0)
    waiting[queue] -= 1
    order.rotate(queue)
    return queue


@given(st.floats(0.01, 0.95))
def test_while_both_wait_bulk_gets_its_share_in_every_stretch(share):
    order, waiting = order_of(share), {LIVE: 10_000, BULK: 10_000}
    taken = [take(order, waiting) for _ in range(1000)]
    for end in (100, 300, 1000):
        assert abs(taken[:end].count(BULK) - end * share) <= 1


def test_live_comes_first_and_every_fifth_message_is_bulk():
    order, waiting = order_of(0.2), {LIVE: 100, BULK: 100}
    assert [take(order, waiting) for _ in range(10)] == [*[LIVE] * 4, BULK] * 2


def test_without_a_share_bulk_waits_for_live():
    order, waiting = order_of(0), {LIVE: 50, BULK: 3}
    assert [take(order, waiting) for _ in range(53)] == [LIVE] * 50 + [BULK] * 3


def test_what_bulk_did_not_need_is_not_saved_up():
    order, waiting = order_of(0.2), {LIVE: 1000, BULK: 0}
    for _ in range(500):
        take(order, waiting)
    waiting[BULK] = 100
    assert [take(order, waiting) for _ in range(20)].count(BULK) <= 5


def test_a_live_message_after_much_bulk_is_taken_at_once():
    order, waiting = order_of(0.2), {LIVE: 0, BULK: 1000}
    for _ in range(500):
        take(order, waiting)
    waiting[LIVE] = 1
    assert take(order, waiting) == LIVE


@pytest.mark.parametrize("queue", [LIVE, BULK])
def test_a_worker_of_one_lane_looks_into_that_alone(queue):
    order, waiting = order_of(0.2, [queue]), {queue: 10}
    assert [take(order, waiting) for _ in range(10)] == [queue] * 10


def test_queues_that_are_no_longer_consumed_are_forgotten():
    order = order_of(0.2)
    order.update([BULK])
    assert order.consume(2) == [BULK]
    assert order.consume(0) == []
