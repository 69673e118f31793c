"""A FHIR server as a destination: one POST of a transaction Bundle, with limits on time and on what is read."""

from __future__ import annotations

from collections.abc import Mapping

from dermbatch.errors import FhirRefused, FhirUnavailable, UsageError
from dermbatch.outbound.posting import PIECE, HttpAnswer, Posting, Unanswered, Untrusted
from dermbatch.settings.destinations import FhirSettings
from orchestrator.fhir.answers import Accepted, judged
from orchestrator.fhir.elements import Json
from orchestrator.fhir.resources import MEDIA_TYPE, as_json

_MOST_ANSWERED = 4 * 1024 * 1024  # bytes of an answer: some servers send back all resources


class FhirServer:
    """One server of the settings. For one thread at a time.

    Args:
        name: Of it in the settings.
        settings: Where it is and how it lets us in.
    """

    def __init__(self, name: str, settings: FhirSettings) -> None:
        self.name = name
        self._url = settings.url
        self._posting = Posting(settings, _MOST_ANSWERED, f"the FHIR server {name!r}")

    def send(self, bundle: Json) -> Accepted:
        """Send a transaction Bundle; resources that are there already count as taken.

        Raises:
            FhirUnavailable: If trying again may help.
            FhirRefused: If it cannot, before something is mended.
        """
        try:
            answer = self._post(as_json(bundle))
        except Untrusted as error:
            raise FhirRefused(str(error), reason="fhir_untrusted") from error
        except Unanswered as error:
            raise FhirUnavailable(str(error)) from error
        return judged(self.name, answer, len(bundle["entry"]))

    def close(self) -> None:
        """Close connections."""
        self._posting.close()

    def _post(self, body: bytes) -> HttpAnswer:
        headers = {
            "Content-Type": f"{MEDIA_TYPE}; fhirVersion=4.0",
            "Accept": f"{MEDIA_TYPE}; fhirVersion=4.0",
            "Prefer": "return=minimal",
        }
        pieces = [body[start : start + PIECE] for start in range(0, len(body), PIECE)]
        return self._posting.post(self._url, pieces, headers)


def named_server(name: str, servers: Mapping[str, FhirSettings]) -> FhirServer:
    """The server with this name.

    Raises:
        UsageError: If the settings have none.
    """
    if name not in servers:
        known = ", ".join(sorted(servers)) or "none"
        raise UsageError(
            f"the settings have no FHIR server {name!r} (they have: {known}); set DERMBATCH_FHIR__<NAME>__URL"
        )
    return FhirServer(name, servers[name])
