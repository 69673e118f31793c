"""Results sent to a FHIR server (a stand-in), by function and command: once, patiently, with one clear answer."""

import json
import socket
import threading
import uuid
from types import SimpleNamespace

import httpx
import pytest
from desk_server import Server
from fhir.resources.R4B.bundle import Bundle
from fhir_standin import FhirStandIn
from pydantic import SecretStr, ValidationError
from typer.testing import CliRunner

from dermbatch import layout
from dermbatch.errors import FhirRefused, FhirUnavailable
from dermbatch.settings.destinations import FhirSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.cli.program import application
from orchestrator.fhir.delivery import send_bundles
from orchestrator.fhir.server import FhirServer
from orchestrator.stack.environment import plain, without_credentials
from orchestrator.stack.ports import free_ports
from tests.outcome_samples import batch_of, entry_of, failure_of, result_of, write_manifest, write_record


@pytest.fixture
def standin():
    standin = FhirStandIn()
    yield standin
    standin.shutdown()
    standin.server_close()


@pytest.fixture
def batch(object_store_settings):
    """Three results, one of them without lesion, a failure, and an image that was deleted."""
    store, name = ObjectStore(object_store_settings), f"fhir-{uuid.uuid4().hex[:8]}"
    batch = batch_of(name, 5)
    write_manifest(store, batch, [entry_of(index) for index in range(5)])
    for record in (
        result_of(name, 0, mm=0.1),
        result_of(name, 1, area=0),
        failure_of(name, 2),
        result_of(name, 3),
    ):
        write_record(store, record)
    return SimpleNamespace(store=store, batch=batch, name=name, settings=object_store_settings)


def server(standin, **changes):
    return FhirServer("main", FhirSettings(**{"url": standin.url, "timeout": 5, **changes}))


def send(batch, to, waits=None):
    lines = []
    told = send_bundles(batch.store, batch.batch, to, lines.append, ([] if waits is None else waits).append)
    return told, lines


def test_results_are_sent_once_however_often_they_are_sent(batch, standin):
    told, lines = send(batch, server(standin, user="ward", password=SecretStr("geheim ü")))
    assert (told.sent, told.failed, told.bad, told.nobody, lines) == (3, 1, 0, 3, [])
    assert (len(standin.of("DiagnosticReport")), len(standin.of("Observation")), len(standin.of("Device"))) == (
        3,
        6,
        2,
    )
    assert (told.created, told.there) == (11, 4)  # the models are devices that the later images find there
    (report, *_) = standin.of("DiagnosticReport")
    known = {f"{kind}/{resource['id']}" for (kind, _), resource in standin.kept.items()}
    assert {one["reference"] for one in report["result"]} <= known
    assert standin.asked[0]["Authorization"] == "Basic d2FyZDpnZWhlaW0gw7w="
    assert standin.asked[0]["Content-Type"] == "application/fhir+json; fhirVersion=4.0"

    report["status"] = "amended"  # by a person, since
    before = json.dumps([*standin.kept.values()])
    again, _ = send(batch, server(standin))
    assert (again.sent, again.created, again.there) == (3, 0, 15)
    assert json.dumps([*standin.kept.values()]) == before


def test_what_was_segmented_again_since_stands_beside_and_changes_nothing(batch, standin):
    send(batch, server(standin))
    before = dict(standin.kept)
    later = batch_of(f"{batch.name}-later", 1)
    write_manifest(batch.store, later, [entry_of(0)])
    write_record(batch.store, result_of(later.name, 0, mm=0.1, versions={Stage.SEGMENT: "2"}))
    told, _ = send(SimpleNamespace(store=batch.store, batch=later), server(standin))
    assert told.created == 4  # a report, two observations, and the other model
    assert standin.kept.items() >= before.items()
    assert send(batch, server(standin))[0].created == 0


def test_an_image_that_was_deleted_is_not_sent(batch, standin):
    batch.store.delete(layout.result(batch.name, 0))
    told, _ = send(batch, server(standin))
    assert (told.sent, told.failed) == (2, 1)


def test_a_server_that_is_away_for_a_while_is_asked_again(batch, standin):
    standin.answers = [(503, b"", {}), (429, b"", {"Retry-After": "7"}), (409, b"{}", {}), (500, b"", {})]
    waits = []
    told, _ = send(batch, server(standin), waits)
    assert (told.sent, told.created) == (3, 11)
    assert waits == [1, 7, 4, 8]


def test_a_server_that_stays_away_ends_it_and_the_same_again_goes_on(batch, standin):
    standin.answers = [(503, b"", {"Retry-After": "900"})] * 5
    waits = []
    with pytest.raises(FhirUnavailable, match="503"):
        send(batch, server(standin), waits)
    assert waits == [60] * 4  # people wait for the command
    assert standin.kept == {}
    assert send(batch, server(standin))[0].sent == 3


def test_nobody_there_is_unavailable(batch):
    with pytest.raises(FhirUnavailable, match="does not answer"):
        send(
            batch, FhirServer("main", FhirSettings(url=f"http://127.0.0.1:{free_ports(1)[0]}", connect_timeout=1))
        )


def test_one_image_that_is_refused_does_not_hold_the_others(batch, standin):
    standin.answers = [(422, b'{"resourceType":"OperationOutcome","issue":[{"code":"business-rule"}]}', {})]
    told, lines = send(batch, server(standin))
    assert (told.sent, told.bad) == (2, 1)
    assert lines == [
        "image 0: the FHIR server 'main' answered HTTP 422 (business-rule): it does not take what was sent; "
        "see its log, and its profiles"
    ]


@pytest.mark.parametrize("status", [401, 403])
def test_who_is_not_let_in_stops_at_once(batch, standin, status):
    standin.answers = [(status, b"", {})]
    with pytest.raises(FhirRefused, match="does not let us in") as caught:
        send(batch, server(standin))
    assert caught.value.reason == "fhir_denied"
    assert len(standin.asked) == 1


def test_a_server_that_refuses_all_is_not_asked_for_each_image(object_store_settings, standin):
    store, name = ObjectStore(object_store_settings), f"fhir-{uuid.uuid4().hex[:8]}"
    many = batch_of(name, 12)
    write_manifest(store, many, [entry_of(index) for index in range(12)])
    for index in range(12):
        write_record(store, result_of(name, index))
    with pytest.raises(FhirRefused, match="URL of DERMBATCH_FHIR"):
        send(SimpleNamespace(store=store, batch=many), server(standin, url=f"{standin.url}/elsewhere"))
    assert len(standin.asked) == 8


def test_an_endless_answer_and_foreign_certificates(batch, standin, tmp_path):
    standin.answers = [(200, b" " * (4 << 20) + b"{}", {})] * 5
    with pytest.raises(FhirUnavailable, match="took too long"):
        send(batch, server(standin))
    with pytest.raises(FhirRefused) as caught:
        server(standin, ca_file=tmp_path / "none.pem").send({"entry": []})
    assert caught.value.reason == "fhir_untrusted"
    plain_text = socket.create_server(("127.0.0.1", 0))
    port = plain_text.getsockname()[1]

    def answer():
        with plain_text, plain_text.accept()[0] as peer:
            peer.recv(100)
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    threading.Thread(target=answer, daemon=True).start()
    with pytest.raises(FhirRefused) as caught:  # http where https is meant
        server(standin, url=f"https://127.0.0.1:{port}").send({"entry": []})
    assert caught.value.reason == "fhir_untrusted"


@pytest.mark.parametrize("url", ["ftp://x", "http://", "https://u:p@x/fhir", "https://x/fhir?a=b"])
def test_addresses_that_are_none(url):
    with pytest.raises(ValidationError):
        FhirSettings(url=url)


def command(batch, *words, **variables):
    store = batch.settings
    environment = {
        "DERMBATCH_STORE__ENDPOINT_URL": store.endpoint_url,
        "DERMBATCH_STORE__ACCESS_KEY_ID": store.access_key_id,
        "DERMBATCH_STORE__SECRET_ACCESS_KEY": store.secret_access_key.get_secret_value(),
        "DERMBATCH_STORE__BUCKET": store.bucket,
        "COLUMNS": "200",
        **variables,
    }
    return CliRunner(env=environment).invoke(application(), [*words])


def test_by_commands(batch, standin, tmp_path):
    home = ("--home", str(tmp_path / "none"))
    sent = command(batch, "send", batch.name, "--fhir", "main", *home, DERMBATCH_FHIR__MAIN__URL=standin.url)
    assert sent.exit_code == 0, sent.output
    assert f"{batch.name}: 3 results sent to main (3 name no patient)" in sent.output
    assert "11 resources created, 4 were there already" in sent.output
    for index in (0, 1, 3):  # the samples' pictures lie nowhere: results that have none
        record = result_of(batch.name, index, stages=(Stage.CLASSIFY,))
        classified = record.stages[Stage.CLASSIFY].model_copy(update={"inline": {}})
        write_record(batch.store, record.model_copy(update={"stages": {Stage.CLASSIFY: classified}}))
    fetched = command(batch, "fetch", batch.name, "--out", str(tmp_path / "out"), "--fhir", *home)
    assert fetched.exit_code == 0, fetched.output
    assert f"{batch.name}: 3 results written as FHIR (3 name no patient), 0 could not be" in fetched.output
    written = tmp_path / "out" / layout.fhir(batch.name, 0)
    assert Bundle.model_validate_json(written.read_bytes()).type == "transaction"
    unknown = command(batch, "send", batch.name, "--fhir", "other", *home, DERMBATCH_FHIR__MAIN__URL=standin.url)
    assert "the settings have no FHIR server 'other' (they have: main)" in str(unknown.exception)


def test_by_the_desk(batch, redis_settings, object_store_settings, tmp_path):
    with Server(redis_settings, object_store_settings, tmp_path) as desk, desk.client() as ada:
        path = f"/v1/batches/{batch.name}/images"
        answer = ada.get(f"{path}/0/fhir")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/fhir+json"
        assert Bundle.model_validate_json(answer.content).type == "transaction"
        assert ada.get(f"{path}/0/fhir", headers={"if-none-match": answer.headers["etag"]}).status_code == 304
        for index in (2, 4):  # failed, deleted
            assert ada.get(f"{path}/{index}/fhir").json()["reason"] == "no_result"
        write_record(batch.store, result_of(batch.name, 4, stages=(Stage.PURIFY,)))
        assert ada.get(f"{path}/4/fhir").json()["reason"] == "nothing_to_say"
        assert httpx.get(f"{desk.url}{path}/0/fhir").status_code == 401


def test_credentials_are_in_no_file():
    from dermbatch.settings import Settings

    settings = Settings(fhir={"main": FhirSettings(url="https://x/fhir", token=SecretStr("geheim"))})
    assert "geheim" in json.dumps(plain(settings))
    assert "geheim" not in json.dumps(plain(without_credentials(settings)))
