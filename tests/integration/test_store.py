import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dermbatch.errors import ObjectBrokeOff, ObjectNotFound, PermanentError, StoreUnavailable
from dermbatch.s3 import vouched
from dermbatch.settings import StoreSettings
from dermbatch.store import ObjectStore, split_uri
from orchestrator.stack.ports import free_ports


@pytest.fixture
def store(empty_store):
    return ObjectStore(empty_store)


def test_an_object_comes_back_as_it_was(store):
    body = bytes(range(256)) * 1000
    store.put("a/b c/ü.bin", body, "application/octet-stream")
    assert store.get(store.bucket, "a/b c/ü.bin") == body


def test_of_eight_writers_one_wins(store):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.put_if_absent("once", bytes([n]), "text/plain"), range(8)))
    assert won.count(True) == 1
    assert store.get(store.bucket, "once") == bytes([won.index(True)])


def test_listing_goes_on_after_the_first_page(store):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put(f"many/{n:04d}", b"x", "text/plain"), range(1003)))
    keys = [info.key for info in store.list(store.bucket, "many/")]
    assert keys == [f"many/{n:04d}" for n in range(1003)]
    store.delete_prefix(store.bucket, "many/")
    assert list(store.list(store.bucket, "many/")) == []


def test_what_is_not_there_is_said_clearly(store):
    with pytest.raises(ObjectNotFound) as missing:
        store.get(store.bucket, "nothing")
    assert missing.value.reason == "object_not_found"
    with pytest.raises(ObjectNotFound) as nowhere:
        list(store.list("no-such-bucket", ""))
    assert nowhere.value.reason == "bucket_not_found"


def test_an_object_over_the_limit_is_not_read(store):
    store.put("large", b"x" * 1000, "text/plain")
    assert len(store.get(store.bucket, "large", max_bytes=1000)) == 1000
    with pytest.raises(PermanentError) as error:
        store.get(store.bucket, "large", max_bytes=999)
    assert error.value.reason == "too_large"


def test_a_store_that_is_gone_is_a_transient_error():
    (port,) = free_ports(1)
    store = ObjectStore(
        StoreSettings(endpoint_url=f"http://127.0.0.1:{port}", access_key_id="a", secret_access_key="b")
    )
    with pytest.raises(StoreUnavailable):
        store.get("bucket", "key")
    with pytest.raises(StoreUnavailable):
        store.put("key", b"", "text/plain")


def test_uris():
    assert split_uri("s3://bucket/a/b.jpg") == ("bucket", "a/b.jpg")
    assert split_uri("s3://bucket") == ("bucket", "")
    for wrong in ("http://bucket/key", "s3://", "bucket/key", "s3:///key"):
        with pytest.raises(ValueError, match="not an s3"):
            split_uri(wrong)


def test_a_digest_that_the_store_keeps_is_told_before_anything_is_read(store):
    body = bytes(range(256)) * 100
    store._client.put_object(Bucket=store.bucket, Key="vouched", Body=body, ChecksumAlgorithm="SHA256")
    store.put("plain", body, "text/plain")
    vouched, plain = store.opened(store.bucket, "vouched"), store.opened(store.bucket, "plain")
    assert (vouched.sha256, plain.sha256) == (hashlib.sha256(body).hexdigest(), None)
    vouched.close()
    assert plain.read() == body
    again = store.opened(store.bucket, "vouched", max_bytes=len(body))
    assert again.read() == body
    with pytest.raises(PermanentError) as error:
        store.opened(store.bucket, "vouched", max_bytes=len(body) - 1)
    assert error.value.reason == "too_large"
    assert b"".join(store.chunks(store.bucket, "plain")) == body
    with pytest.raises(ObjectNotFound):
        store.opened(store.bucket, "nothing")


@pytest.mark.parametrize(
    ("checksum", "kind"),
    [
        (None, None),
        ("AAAA", None),
        ("n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=-3", "COMPOSITE"),
        ("n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=", "COMPOSITE"),
        ("?", "FULL_OBJECT"),
    ],
)
def test_what_is_no_digest_of_the_whole_object_vouches_for_nothing(checksum, kind):
    assert vouched(checksum, kind) is None
    assert (
        vouched("n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=", "FULL_OBJECT")
        == hashlib.sha256(b"test").hexdigest()
    )


def test_an_object_that_is_cut_off_where_it_lies_is_told_from_a_store_that_is_away():
    class Cut(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"cut off")

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Cut)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    store = ObjectStore(StoreSettings(endpoint_url=url, access_key_id="a", secret_access_key="b"))
    try:
        for read in (
            store.get,
            lambda *place: store.opened(*place).read(),
            lambda *place: list(store.chunks(*place)),
        ):
            with pytest.raises(ObjectBrokeOff):
                read("bucket", "key")
    finally:
        server.shutdown()
        server.server_close()
