"""Times in the object store's answers are read as botocore reads them, only faster."""

import pytest
from botocore.utils import parse_timestamp

from dermbatch.s3 import moment


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-27T15:36:46.123Z",
        "2026-11-27T15:36:46Z",
        "2026-11-27T15:36:46.123456Z",
        "2026-11-27T15:36:46+02:00",
        "Fri, 27 Nov 2026 15:36:46 GMT",
        "Fri, 27 Nov 2026 15:36:46 +0000",
        "1700000000",
        "20261127T153646Z",
    ],
)
def test_times_are_botocores(text):
    found = moment(text)
    assert found == parse_timestamp(text)
    assert found.utcoffset() is not None


def test_what_is_no_time_is_refused_as_botocore_does():
    with pytest.raises(ValueError, match="Invalid timestamp"):
        moment("tomorrowZ")
