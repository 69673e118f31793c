"""The watcher's inbox: bounded, each object once, nothing lost that was taken out but not dealt with."""

import queue

import pytest

from orchestrator.watching.news.events import ObjectEvent
from orchestrator.watching.news.inbox import Inbox


def events(*keys):
    return [ObjectEvent("b", key) for key in keys]


def test_each_object_is_held_once_in_the_order_in_which_it_came():
    inbox = Inbox(10)
    inbox.put(events("c", "a", "c"))
    inbox.put(events("a", "b"))
    assert inbox.take(2) == events("c", "a")
    inbox.put(events("c"))
    assert inbox.take(9) == events("b", "c")
    assert inbox.take(9) == []


def test_what_it_has_no_room_for_is_refused_whole_and_what_it_knows_needs_none():
    inbox = Inbox(2)
    inbox.put(events("a"))
    with pytest.raises(queue.Full):
        inbox.put(events("b", "c"))
    inbox.put(events("a", "b", "a"))
    assert inbox.take(9) == events("a", "b")


def test_what_was_taken_out_in_vain_comes_first_again_whatever_room_there_is():
    inbox = Inbox(1)
    inbox.put(events("a"))
    taken = inbox.take(1)
    inbox.put(events("b"))
    inbox.put_back(taken)
    assert inbox.take(9) == events("a", "b")


def test_it_does_not_wait_while_there_is_something():
    inbox = Inbox(1)
    inbox.put(events("a"))
    inbox.wait(3600)
