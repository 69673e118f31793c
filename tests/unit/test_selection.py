from datetime import UTC, datetime, timedelta, timezone

import pytest

from dermbatch.errors import UsageError
from dermbatch.records.asked import Filters
from orchestrator.planning.intake.selection import Selection

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def select(**filters):
    return Selection(Filters(**filters))


@pytest.mark.parametrize(
    ("filters", "paths", "taken"),
    [
        ({}, ("a",), True),
        ({"include": ("*.png",)}, ("deep/down/a.png",), True),
        ({"include": ("*.png",)}, ("a.PNG",), False),
        ({"include": ("*.[pP][nN][gG]", "x*")}, ("a.PNG",), True),
        ({"include": ("a?b",)}, ("a/b",), True),
        ({"include": ("a",)}, ("ab",), False),
        ({"exclude": ("private/*",)}, ("private/a.png",), False),
        ({"exclude": ("private/*",)}, ("not/private/a.png",), True),
        ({"include": ("*.png",), "exclude": ("*.png",)}, ("a.png",), False),
        ({"include": ("x.zip",)}, ("x.zip", "x.zip/a.png"), True),
        ({"exclude": ("x.zip",)}, ("x.zip", "x.zip/a.png"), False),
        ({"include": ("a.png",)}, ("line\na.png",), False),
        ({"include": ("*a.png",)}, ("line\na.png",), True),
        ({"include": ("nothing",), "exclude": ("*",)}, (), True),
    ],
)
def test_patterns_are_globs_on_the_whole_path(filters, paths, taken):
    assert select(**filters).names(paths) is taken


def test_since_is_included_until_is_not():
    selection = select(since=NOON, until=NOON + timedelta(hours=1))
    assert selection.times(NOON)
    assert selection.times(datetime(2026, 3, 1, 13, 59, tzinfo=timezone(timedelta(hours=1))))
    assert not selection.times(NOON - timedelta(seconds=1))
    assert not selection.times(NOON + timedelta(hours=1))
    assert selection.times(None)


def test_times_without_a_zone_or_without_anything_between_are_refused():
    with pytest.raises(UsageError, match="no time zone"):
        select(until=NOON.replace(tzinfo=None))
    with pytest.raises(UsageError, match="--since must be before --until"):
        select(since=NOON, until=NOON)
