"""Attacks on the stack's object store: no key, a web page, ministack's own paths."""

import http.client
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from dermbatch.settings import StoreSettings
from orchestrator.stack.servers.s3door import RequestDenied, S3Door, canonical

ODD = ["a b+c%?#&=.png", "ü/é.png", "x" * 900, "two//slashes/", "~tilde-_.!*'()", "a/../b", "new\nline"]


def raw(store, method, path, headers=(), body=None, host=None):
    """Status and code of a request as it is given here."""
    port = int(store.endpoint_url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    for name, value in dict(headers).items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text.partition("<Code>")[2].partition("<")[0]


def signed(store, method, path, *, host=None, body=b"", service="s3", **changed):
    """Headers of a request that is signed as it should be, by botocore."""
    port = store.endpoint_url.rpartition(":")[2]
    request = AWSRequest(method, f"{store.endpoint_url}{path}", data=body, headers=changed.pop("headers", {}))
    request.headers["Host"] = host or f"127.0.0.1:{port}"
    key = (
        changed.get("key", store.access_key_id),
        changed.get("secret", store.secret_access_key.get_secret_value()),
    )
    auth = S3SigV4Auth if service == "s3" else SigV4Auth
    auth(Credentials(*key), service, store.region).add_auth(request)
    return {name: value for name, value in request.headers.items() if name != "Host"}


def test_who_has_the_key_reads_and_writes_every_name(s3_client, object_store_settings):
    bucket = object_store_settings.bucket
    for key in ODD:
        s3_client.put_object(Bucket=bucket, Key=f"door/{key}", Body=key.encode(), Metadata={"a": "b  c"})
        assert s3_client.get_object(Bucket=bucket, Key=f"door/{key}")["Body"].read() == key.encode()
    listed = s3_client.list_objects_v2(Bucket=bucket, Prefix="door/", Delimiter="%+ &")["Contents"]
    assert {found["Key"] for found in listed} == {f"door/{key}" for key in ODD}
    s3_client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": f"door/{key}"} for key in ODD]})
    assert "Contents" not in s3_client.list_objects_v2(Bucket=bucket, Prefix="door/")


@pytest.mark.parametrize("payload", [True, False])
def test_bodies_are_held_to_their_digest(object_store_settings, payload):
    store = object_store_settings
    config = Config(s3={"addressing_style": "path", "payload_signing_enabled": payload}, proxies={})
    client = boto3.client(
        "s3",
        endpoint_url=store.endpoint_url,
        region_name=store.region,
        aws_access_key_id=store.access_key_id,
        aws_secret_access_key=store.secret_access_key.get_secret_value(),
        config=config,
    )
    client.put_object(Bucket=store.bucket, Key="door/body", Body=b"1" * 300_000)
    assert client.head_object(Bucket=store.bucket, Key="door/body")["ContentLength"] == 300_000
    client.close()
    path = f"/{store.bucket}/door/body"
    headers = signed(store, "PUT", path, body=b"right")
    assert raw(store, "PUT", path, headers, b"wrong") == (403, "XAmzContentSHA256Mismatch")
    assert raw(store, "PUT", path, headers, b"right")[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/dermbatch?list-type=2"),
        ("PUT", "/dermbatch/door/planted"),
        ("DELETE", "/dermbatch"),
        ("POST", "/dermbatch?delete"),
        ("POST", "/_ministack/reset"),
        ("POST", "/_ministack/config"),
        ("GET", "/_ministack/ready"),
        ("GET", "/_localstack/health"),
        ("GET", "/health"),
        ("POST", "/"),
        ("OPTIONS", "/dermbatch"),
        ("POST", "/_ministack/health"),
    ],
)
def test_without_a_signature_nothing_is_answered(object_store_settings, method, path):
    assert raw(object_store_settings, method, path, body=b"") == (403, "AccessDenied")


@pytest.mark.parametrize(
    "path", ["/_ministack/reset", "/_ministack/reset?init=1", "/_ministack/config", "/%5Fministack/reset"]
)
def test_the_key_does_not_open_the_servers_own_paths(object_store_settings, path):
    store = object_store_settings
    assert raw(store, "POST", path, signed(store, "POST", path), b"") == (403, "AccessDenied")


def test_wrong_keys_and_changed_requests_are_refused(object_store_settings):
    store, path = object_store_settings, f"/{object_store_settings.bucket}/door/x"
    good = signed(store, "GET", path)
    assert raw(store, "GET", path, good) == (404, "NoSuchKey")
    assert raw(store, "GET", path, signed(store, "GET", path, key="dermbatch")) == (403, "InvalidAccessKeyId")
    assert raw(store, "GET", path, signed(store, "GET", path, secret="x")) == (403, "SignatureDoesNotMatch")
    for method, other in (("DELETE", path), ("GET", path + "y"), ("GET", path + "?acl")):
        assert raw(store, method, other, good) == (403, "SignatureDoesNotMatch")
    assert raw(store, "GET", path, {**good, "x-amz-copy-source": "/a/b"}) == (403, "AccessDenied")
    assert raw(store, "POST", "/", signed(store, "POST", "/", service="sqs"), b"")[0] == 403
    assert raw(store, "GET", path + "?X-Amz-Signature=" + "0" * 64) == (403, "AccessDenied")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "0.0.0.0", "[::2]", "[", ""]
)
def test_a_name_that_leads_here_is_no_way_in(object_store_settings, host):
    store = object_store_settings
    host = host or " "
    assert raw(store, "GET", "/_ministack/health", host=host)[0] in {400, 403}
    headers = signed(store, "GET", f"/{store.bucket}/door/x", host=host)
    assert raw(store, "GET", f"/{store.bucket}/door/x", headers, host=host)[0] in {400, 403}


@pytest.mark.parametrize("name", ["Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Referer"])
def test_pages_of_a_browser_are_refused_even_with_the_key(object_store_settings, name):
    store, path = object_store_settings, f"/{object_store_settings.bucket}/door/x"
    headers = {**signed(store, "GET", path), name: "http://127.0.0.1:8000"}
    assert raw(store, "GET", path, headers) == (403, "AccessDenied")
    assert raw(store, "POST", "/_ministack/reset", {name: "null"}, b"") == (403, "AccessDenied")


def test_a_request_is_good_for_a_quarter_of_an_hour(object_store_settings):
    store, path = object_store_settings, f"/{object_store_settings.bucket}/door/x"
    headers = signed(store, "GET", path)
    listed = [(b"host", store.endpoint_url.removeprefix("http://").encode())]
    listed += [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    def at(minutes):
        door = S3Door(
            None, store.access_key_id, store.secret_access_key.get_secret_value(), now=lambda: then(minutes)
        )
        return door.check_signature("GET", path.encode(), b"", listed)

    def then(minutes):
        return datetime.now(UTC) + timedelta(minutes=minutes)

    assert at(14) == headers["X-Amz-Content-SHA256"]
    for minutes in (16, -16, 24 * 60):
        with pytest.raises(RequestDenied, match="RequestTimeTooSkewed"):
            at(minutes)


def test_the_canonical_request_is_that_of_the_standard():
    """The example "GET Object" of "Authenticating Requests: Using the Authorization Header" (Amazon S3)."""
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    headers = [
        (b"host", b"examplebucket.s3.amazonaws.com"),
        (b"range", b"bytes=0-9"),
        (b"x-amz-content-sha256", empty.encode()),
        (b"x-amz-date", b"20130524T000000Z"),
        (b"authorization", b"AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
         b"SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
         b"Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
    ]  # fmt: skip
    names = ["host", "range", "x-amz-content-sha256", "x-amz-date"]
    assert canonical("GET", b"/test.txt", b"", headers, names, empty).startswith(
        b"GET\n/test.txt\n\nhost:examplebucket"
    )
    door = S3Door(
        None,
        "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        now=lambda: datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert door.check_signature("GET", b"/test.txt", b"", headers) == empty


def test_the_stack_makes_a_key_of_its_own(object_store_settings):
    assert object_store_settings.access_key_id not in {None, "dermbatch"}
    assert len(object_store_settings.secret_access_key.get_secret_value()) >= 32
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        boto3.client(
            "s3",
            endpoint_url=object_store_settings.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="dermbatch",
            aws_secret_access_key="dermbatch",
        ).list_buckets()
    assert StoreSettings().access_key_id is None
