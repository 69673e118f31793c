"""Uploads to the desk and batches of them, over real servers."""

import socket

import cv2
import numpy as np
import pytest
from desk_server import Server

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, StackError, UsageError
from desk.remote import DeskClient

PIECE = 8 << 20


def send(client, upload, offset, body, kind="application/offset+octet-stream"):
    headers = {"upload-offset": str(offset), "content-type": kind}
    return client.patch(f"/v1/uploads/{upload['id']}", content=body, headers=headers)


def test_an_upload_goes_on_where_it_broke_off_also_at_another_replica(
    server, ada, store, redis_settings, object_store_settings, tmp_path
):
    body = np.random.default_rng(5).integers(0, 256, PIECE + 7000, np.uint8).tobytes()
    upload = ada.post("/v1/uploads", json={"name": "folder/皮膚 1.jpg", "size": len(body)}).json()
    assert send(ada, upload, 0, body[:PIECE]).headers["upload-offset"] == str(PIECE)
    wrong = send(ada, upload, 0, body[:PIECE])
    assert (wrong.status_code, wrong.headers["upload-offset"]) == (409, str(PIECE))
    assert send(ada, upload, PIECE, body[PIECE:] + b"more").status_code == 413
    assert send(ada, upload, PIECE, b"x", kind="image/jpeg").status_code == 415
    asked = {"inputs": [f"upload:{upload['into']}"]}
    assert ada.post("/v1/estimates", json=asked).json()["reason"] == "upload_incomplete"
    with Server(redis_settings, object_store_settings, tmp_path) as other, other.client("ada") as there:
        assert there.head(f"/v1/uploads/{upload['id']}").headers["upload-offset"] == str(PIECE)
        assert send(there, upload, PIECE, body[PIECE:]).status_code == 204
    key = f"desk/{upload['into']}/folder/皮膚 1.jpg"
    assert store.get(store.incoming_bucket, key) == body
    taken = ada.post("/v1/uploads", json={"name": "folder/皮膚 1.jpg", "size": 1, "into": upload["into"]})
    assert (taken.status_code, taken.json()["reason"]) == (409, "name_taken")
    with server.client("bob") as bob:
        assert bob.head(f"/v1/uploads/{upload['id']}").status_code == 404
        assert bob.post("/v1/estimates", json=asked).status_code == 404


def test_of_a_piece_that_breaks_off_nothing_is_taken_and_the_file_goes_on(server, ada):
    body = np.random.default_rng(6).integers(0, 256, PIECE + 9, np.uint8).tobytes()
    upload = ada.post("/v1/uploads", json={"name": "a.jpg", "size": len(body)}).json()
    headers = {
        "Host": f"127.0.0.1:{server.port}",
        "Cookie": "; ".join(f"{one.name}={one.value}" for one in ada.cookies.jar),
        "X-CSRF-Token": ada.headers["x-csrf-token"],
        "Upload-Offset": "0",
        "Content-Type": "application/offset+octet-stream",
        "Content-Length": str(PIECE),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(f"PATCH /v1/uploads/{upload['id']} HTTP/1.1\r\n{head}\r\n".encode() + body[: PIECE // 2])
    assert ada.head(f"/v1/uploads/{upload['id']}").headers["upload-offset"] == "0"
    assert send(ada, upload, 0, body[:PIECE]).status_code == 204
    assert send(ada, upload, PIECE, body[PIECE:]).headers["upload-offset"] == str(len(body))
    ada.delete(f"/v1/uploads/{upload['id']}")


def test_a_file_that_never_became_whole_gives_way_to_one_of_its_path(ada, store):
    first = ada.post("/v1/uploads", json={"name": "a.png", "size": 2 * PIECE}).json()
    asked = {"name": "a.png", "size": 3, "into": first["into"]}
    second = ada.post("/v1/uploads", json=asked)  # the first one's answer was lost, or another file is meant
    assert (second.status_code, send(ada, second.json(), 0, b"two").status_code) == (201, 204)
    assert send(ada, first, 0, b"x" * PIECE).json()["reason"] == "no_upload"
    assert store.get(store.incoming_bucket, f"desk/{first['into']}/a.png") == b"two"
    assert ada.post("/v1/uploads", json=asked).json()["reason"] == "name_taken"


def test_a_replica_that_dies_before_it_notes_the_last_piece_loses_nothing(ada, store, monkeypatch):
    body = np.random.default_rng(7).integers(0, 256, PIECE + 5, np.uint8).tobytes()
    upload = ada.post("/v1/uploads", json={"name": "a.png", "size": len(body)}).json()
    assert send(ada, upload, 0, body[:PIECE]).status_code == 204
    with monkeypatch.context() as dying:
        dying.setattr("desk.api.uploads._keep", lambda *_: 1 / 0)
        assert send(ada, upload, PIECE, body[PIECE:]).status_code == 500
    again = send(ada, upload, PIECE, body[PIECE:])
    assert (again.status_code, again.headers["upload-offset"]) == (204, str(len(body)))
    assert store.get(store.incoming_bucket, f"desk/{upload['into']}/a.png") == body


def test_what_was_uploaded_becomes_one_batch_however_often_it_is_asked(ada, store, server):
    picture = cv2.imencode(".png", np.full((64, 64, 3), 99, np.uint8))[1].tobytes()
    first = ada.post("/v1/uploads", json={"name": "a.png", "size": len(picture)}).json()
    assert send(ada, first, 0, picture).status_code == 204
    liar = ada.post("/v1/uploads", json={"name": "b.png", "size": 4, "into": first["into"]}).json()
    assert send(ada, liar, 0, b"MZ\x90\x00").status_code == 204
    asked = {"inputs": [f"upload:{first['into']}"], "stages": ["segment"]}
    estimate = ada.post("/v1/estimates", json=asked).json()
    assert estimate["images"] + estimate["skipped"] == 2
    headers = {"idempotency-key": "once"}
    made = [ada.post("/v1/batches", json=asked, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in made] == [201, 201]
    assert made[0].json()["name"] == made[1].json()["name"]
    other = ada.post("/v1/batches", json=asked | {"weight": 2}, headers=headers)
    assert (other.status_code, other.json()["reason"]) == (422, "key_used")
    ada.post(f"/v1/batches/{made[0].json()['name']}/cancel")
    server.desk.ledger.batches.forget(made[0].json()["name"])
    store.delete(layout.control(made[0].json()["name"]))


def test_python_speaks_to_the_desk_as_to_a_stack(server, store, monday, tmp_path):
    (tmp_path / "scans" / ".hidden").mkdir(parents=True)
    (tmp_path / "scans" / ".hidden" / "x.png").write_bytes(b"x")
    picture = cv2.imencode(".png", np.full((64, 64, 3), 9, np.uint8))[1].tobytes()
    (tmp_path / "scans" / "a.png").write_bytes(picture)
    with DeskClient(server.link()) as client:
        name = client.submit(tmp_path / "scans", stages=["segment"])
        assert client.status(name)["images"] == 1
        with pytest.raises(TimeoutError):
            client.wait(name, timeout=0)
        server.desk.ledger.batches.forget(name)
        store.delete(layout.control(name))
        records = list(client.results(monday, query="index:>=7"))
        assert [(type(one).__name__, one.index) for one in records] == [("ResultRecord", 7), ("FailureRecord", 8)]
        assert client.artifact(records[0], "embedding.npy").startswith(b"\x93NUMPY")
        with pytest.raises(ObjectNotFound):
            client.artifact(records[0], "nothing.png")
        with pytest.raises(UsageError, match="there is no batch"):
            client.status("never")
        with pytest.raises(UsageError, match="neither a file"):
            client.submit(tmp_path / "nowhere")
    with pytest.raises(StackError, match="open the link"):
        DeskClient(server.url)


def test_files_of_the_servers_machine_are_nobodys_input(ada, tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    for given in (str(tmp_path), "/etc/passwd", "file:///etc"):
        answer = ada.post("/v1/batches", json={"inputs": [given]})
        assert (answer.status_code, answer.json()["reason"]) == (400, "usage")
    assert ada.post("/v1/batches", json={"inputs": [], "nonsense": 1}).status_code == 400


def test_uploads_are_bounded_and_can_be_dropped(ada):
    assert ada.post("/v1/uploads", json={"name": "a", "size": 1 << 60}).status_code == 413
    upload = ada.post("/v1/uploads", json={"name": "a.png", "size": 2 * PIECE}).json()
    assert send(ada, upload, 0, b"too little").json()["reason"] == "too_small"
    assert ada.delete(f"/v1/uploads/{upload['id']}").status_code == 204
    assert ada.head(f"/v1/uploads/{upload['id']}").status_code == 404
