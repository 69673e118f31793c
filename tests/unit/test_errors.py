import pytest

from dermbatch import errors


def leaves(kind):
    below = kind.__subclasses__()
    return [kind] if not below else [leaf for sub in below for leaf in leaves(sub)]


@pytest.mark.parametrize("kind", leaves(errors.DermbatchError), ids=lambda kind: kind.__name__)
def test_every_error_has_a_reason_that_metrics_can_carry(kind):
    assert kind.reason.replace("_", "").isalpha()
    assert kind.reason.islower()


def test_a_reason_can_be_told_more_closely():
    error = errors.BadInput("the file is empty", reason="empty_file")
    assert (error.reason, str(error)) == ("empty_file", "the file is empty")
    assert errors.BadInput.reason == "bad_input"


def test_permanent_and_transient_are_apart():
    assert not issubclass(errors.PermanentError, errors.TransientError)
    assert issubclass(errors.BadInput, errors.PermanentError)
    assert issubclass(errors.StoreUnavailable, errors.TransientError)
