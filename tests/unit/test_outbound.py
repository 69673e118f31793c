"""What goes wrong on the way to somebody else's system is classified once, and reported without its address."""

import ssl

import pytest
from urllib3 import exceptions

from dermbatch.errors import FhirRefused, FhirUnavailable, PacsRefused, PacsUnavailable
from dermbatch.handover.pacs import stow
from dermbatch.outbound.posting import Posting, Unanswered, Untrusted
from dermbatch.settings.destinations import DicomwebSettings, FhirSettings
from orchestrator.fhir.server import FhirServer

URL = "https://secret.example/path"
FAILURES = [
    (exceptions.SSLError("no"), Untrusted, "no trusted TLS connection to the PACS 'p'"),
    (ssl.SSLError("no"), Untrusted, "no trusted TLS connection to the PACS 'p'"),
    (exceptions.NewConnectionError(None, f"to {URL}"), Unanswered, r"the PACS 'p' does not answer \(NewConn"),
    (exceptions.ProtocolError(f"from {URL}"), Unanswered, r"the PACS 'p' does not answer \(ProtocolError\)"),
    (ConnectionResetError(), Unanswered, r"the PACS 'p' does not answer \(ConnectionResetError\)"),
]


class Failing:
    """Raises whatever is asked for in place of a connection."""

    def __init__(self, error):
        self.error = error

    def request(self, *_, **__):
        raise self.error

    def clear(self):
        pass


def failing(monkeypatch, error):
    monkeypatch.setattr(Posting, "_opened", lambda _: Failing(error))


@pytest.mark.parametrize(("error", "kind", "sentence"), FAILURES, ids=lambda one: type(one).__name__)
def test_failures_are_sorted(monkeypatch, error, kind, sentence):
    failing(monkeypatch, error)
    with pytest.raises(kind, match=sentence) as raised:
        Posting(DicomwebSettings(url=URL), 10, "the PACS 'p'").post(URL, [b""], {})
    assert "secret" not in str(raised.value)
    if kind is Unanswered:
        assert raised.value.unreached == isinstance(error, exceptions.NewConnectionError)


@pytest.mark.parametrize(("error", "kind"), [one[:2] for one in FAILURES])
def test_pacs_and_fhir_servers_say_the_same_of_it(monkeypatch, error, kind):
    failing(monkeypatch, error)
    monkeypatch.setattr(stow, "_uid", lambda _: "1.2")
    refused = kind is Untrusted
    with pytest.raises(PacsRefused if refused else PacsUnavailable, match="the PACS 'p'") as of_pacs:
        stow.Destination("p", DicomwebSettings(url=URL)).send({"report": b""})
    with pytest.raises(FhirRefused if refused else FhirUnavailable, match="the FHIR server 'f'") as of_fhir:
        FhirServer("f", FhirSettings(url=URL)).send({"entry": []})
    if refused:
        assert (of_pacs.value.reason, of_fhir.value.reason) == ("pacs_untrusted", "fhir_untrusted")
