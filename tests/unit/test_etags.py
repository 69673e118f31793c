"""ETags that two objects share: there, content may change unseen within a second."""

from datetime import UTC, datetime, timedelta

from dermbatch.store import ObjectInfo
from orchestrator.watching.taking import etags
from orchestrator.watching.taking.etags import ETags

AT = datetime(2026, 3, 1, 12, 0, 0, 700_000, tzinfo=UTC)


def info(key, etag, modified=AT):
    return ObjectInfo(key, 5, etag, modified)


def test_only_what_shares_its_etag_and_is_of_this_second_may_change_unseen():
    seen = ETags()
    seen.see("b", [info("1", "a"), info("2", "b"), info("3", "b"), info("4", None), info("4", "")])
    for after, hidden in ((0.0, True), (0.2, True), (0.3, False), (60, False)):
        now = AT + timedelta(seconds=after)
        assert not seen.may_hide(info("1", "a"), now)
        for other in (info("2", "b"), info("3", "b"), info("4", None), info("4", "")):
            assert seen.may_hide(other, now) == hidden
    assert not seen.may_hide(info("2", "b", None), AT)


def test_the_same_object_again_shares_nothing_and_that_of_another_bucket_does():
    seen = ETags()
    for _ in range(2):
        seen.see("b", [info("1", "a")])
        assert not seen.may_hide(info("1", "a"), AT)
    seen.see("c", [info("1", "a")])
    assert seen.may_hide(info("1", "a"), AT)
    seen.see("b", [info("1", "a")])
    assert seen.may_hide(info("1", "a"), AT)


def test_it_keeps_the_last_ones(monkeypatch):
    monkeypatch.setattr(etags, "_KEPT", 2)
    seen = ETags()
    seen.see("b", [info(str(n), str(n)) for n in range(5)])
    assert list(seen._of) == ["3", "4"]
