"""What stores send becomes events with the right keys; anything else is refused, and never breaks."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermbatch.errors import BadInput
from orchestrator.watching.news.events import Notification, ObjectEvent, parse_notification
from tests.notifications import (
    AWS,
    AWS_TEST,
    CEPH,
    EVENTBRIDGE,
    KEY,
    MINIO,
    SNS_SUBSCRIPTION,
    SUBSCRIBE_URL,
    in_sns,
)

STORES = {"aws": AWS, "minio": MINIO, "ceph": CEPH, "eventbridge": EVENTBRIDGE}


def parsed(message):
    return parse_notification(json.dumps(message).encode())


def changed(message, name, **object_fields):
    """A message of one record, under another event's name."""
    copied = copy.deepcopy(message)
    copied["Records"][0]["eventName"] = name
    copied["Records"][0]["s3"]["object"].update(object_fields)
    return copied


@pytest.mark.parametrize("message", STORES.values(), ids=STORES)
def test_every_stores_message_names_the_object_as_it_is_called(message):
    assert parsed(message) == Notification((ObjectEvent("exports", KEY),))


@pytest.mark.parametrize("message", [AWS, EVENTBRIDGE], ids=["aws", "eventbridge"])
def test_what_comes_through_sns_is_the_same(message):
    assert parsed(in_sns(message)) == parsed(message)


def test_an_older_ceph_that_calls_itself_aws_is_known_by_its_event_ids():
    message = copy.deepcopy(CEPH)
    message["Records"][0]["eventSource"] = "aws:s3"
    assert parsed(message).events == (ObjectEvent("exports", KEY),)


def test_of_an_unknown_store_both_readings_of_a_key_are_looked_at():
    message = changed(AWS, "ObjectCreated:Put", key="a+b%20c")
    message["Records"][0]["eventSource"] = "other:s3"
    assert parsed(message).events == (ObjectEvent("exports", "a b c"), ObjectEvent("exports", "a+b%20c"))
    message = changed(message, "ObjectCreated:Put", key="plain.png")
    assert parsed(message).events == (ObjectEvent("exports", "plain.png"),)


def test_a_source_that_is_no_word_is_that_of_an_unknown_store():
    message = changed(AWS, "ObjectCreated:Put", key="a")
    message["Records"][0]["eventSource"] = ["aws:s3"]
    assert [event.key for event in parsed(message).events] == ["a"]


def test_all_records_of_a_message_are_read():
    message = {"Records": [changed(AWS, "ObjectCreated:Put", key=f"{n}.png")["Records"][0] for n in range(3)]}
    assert [event.key for event in parsed(message).events] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    "name",
    [
        "ObjectCreated:Post",
        "ObjectCreated:Copy",
        "s3:ObjectCreated:CompleteMultipartUpload",
        "ObjectSynced:Create",
    ],
)
def test_every_kind_of_creation_counts(name):
    assert parsed(changed(AWS, name)).events


@pytest.mark.parametrize(
    "name",
    [
        "ObjectRemoved:Delete",
        "s3:ObjectRemoved:DeleteMarkerCreated",
        "ObjectRestore:Completed",
        "ObjectTagging:Put",
        "ObjectAcl:Put",
        "LifecycleExpiration:Delete",
        "s3:ObjectAccessed:Get",
        "s3:ObjectCreated:PutTagging",
        "s3:ObjectCreated:PutRetention",
        "s3:ObjectCreated:PutLegalHold",
    ],
)
def test_nothing_else_counts(name):
    assert parsed(changed(MINIO, name)) == Notification()


def test_tests_and_other_events_of_eventbridge_are_no_events():
    assert parsed(AWS_TEST) == Notification()
    assert parsed(in_sns(AWS_TEST)) == Notification()
    assert parsed({**EVENTBRIDGE, "detail-type": "Object Deleted"}) == Notification()
    assert parsed({"Records": []}) == Notification()


def test_a_subscription_is_to_be_confirmed_with_sns_alone():
    assert parsed(SNS_SUBSCRIPTION) == Notification(subscribe_url=SUBSCRIBE_URL)
    chinese = "https://sns.cn-north-1.amazonaws.com.cn/?Action=ConfirmSubscription"
    assert parsed({**SNS_SUBSCRIPTION, "SubscribeURL": chinese}).subscribe_url == chinese


@pytest.mark.parametrize(
    "url",
    [
        "http://sns.us-west-2.amazonaws.com/",
        "https://sns.us-west-2.amazonaws.com.evil.org/",
        "https://evil.org/?https://sns.us-west-2.amazonaws.com/",
        "https://evil-bucket.s3.amazonaws.com/",
        "https://sns.us-west-2.amazonaws.com:8443/",
        "https://sns.us-west-2.amazonaws.com:port/",
        "https://user@sns.us-west-2.amazonaws.com/",
        "https://sns.us-west-2.amazonaws.com@evil.org/",
        "https://[::1/",
        "https://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "",
    ],
)
def test_no_other_address_is_visited(url):
    with pytest.raises(BadInput, match="not one of Amazon SNS"):
        parsed({**SNS_SUBSCRIPTION, "SubscribeURL": url})


REFUSED = {
    "nothing": b"",
    "no json": b"Records",
    "no utf-8": b'"\xff"',
    "deep": b"[" * 100_000,
    "a long number": b"1" * 10_000,
    "a list": b"[]",
    "something else": b'{"hello": "world"}',
    "records of what": b'{"Records": [3]}',
    "no object": b'{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}}}]}',
    "no key": json.dumps(changed(AWS, "ObjectCreated:Put", key="")).encode(),
    "key of another kind": json.dumps(changed(AWS, "ObjectCreated:Put", key=3)).encode(),
    "half a character": json.dumps(changed(CEPH, "ObjectCreated:Put", key="\ud800")).encode(),
    "bytes that are no text": json.dumps(changed(AWS, "ObjectCreated:Put", key="%FF")).encode(),
    "too long": json.dumps(changed(AWS, "ObjectCreated:Put", key="ü" * 513)).encode(),
    "envelope in an envelope": json.dumps(in_sns(in_sns(AWS))).encode(),
    "envelope without a message": json.dumps({"Type": "Notification", "TopicArn": "t"}).encode(),
    "envelope of another kind": json.dumps({"Type": "Other", "TopicArn": "t"}).encode(),
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_what_is_no_event_is_refused_without_quoting_it(body):
    with pytest.raises(BadInput) as caught:
        parse_notification(body)
    assert caught.value.reason == "not_an_event"
    assert len(str(caught.value)) < 150


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
FIELDS = [
    "Records", "eventName", "eventSource", "s3", "bucket", "object", "key", "name", "Type", "TopicArn", "Message",
    "SubscribeURL", "source", "detail-type", "detail", "Event",
]  # fmt: skip
VALUES = ["ObjectCreated:Put", "aws:s3", "ceph:s3", "aws.s3", "Object Created", "Notification", "s3:TestEvent"]
NEARLY = st.recursive(
    st.sampled_from(VALUES) | st.text(max_size=5) | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=30,
)


def holds(body):
    try:
        notification = parse_notification(body)
    except BadInput:
        return
    for event in notification.events:
        assert event.bucket
        assert 0 < len(event.key.encode()) <= 1024


@given(st.binary(max_size=200))
def test_any_bytes_are_events_or_bad_input(body):
    holds(body)


@given(JSON | NEARLY)
def test_any_json_is_events_or_bad_input(message):
    holds(json.dumps(message).encode())


@given(st.sampled_from([*STORES.values(), in_sns(AWS), SNS_SUBSCRIPTION]), st.data())
def test_any_message_with_a_part_replaced_is_events_or_bad_input(message, data):
    copied = copy.deepcopy(message)
    at = copied
    while True:
        steps = list(at) if isinstance(at, dict) else list(range(len(at)))
        step = data.draw(st.sampled_from(steps))
        if not isinstance(at[step], dict | list) or not at[step] or data.draw(st.booleans()):
            at[step] = data.draw(JSON)
            break
        at = at[step]
    holds(json.dumps(copied).encode())


@given(st.text(min_size=1, max_size=100))
def test_every_key_comes_through_each_stores_encoding(key):
    from urllib.parse import quote_plus

    encoded = changed(AWS, "ObjectCreated:Put", key=quote_plus(key, safe="/"))
    minio = changed(MINIO, "s3:ObjectCreated:Put", key=quote_plus(key))
    plain = changed(CEPH, "ObjectCreated:Put", key=key)
    for message in (encoded, minio, plain, in_sns(encoded)):
        assert [event.key for event in parsed(message).events] == [key]
