"""The Python API over HTTP: speaks to a desk as :class:`dermbatch.client.Client` does to a stack.

.. code-block:: python

    client = DeskClient("http://127.0.0.1:8080/enter?link=...")  # a link that `dermbatch desk` has printed
    batch = client.submit("scans")
    client.wait(batch)
    for outcome in client.results(batch):
        ...
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from dermbatch.errors import DermbatchError, ObjectNotFound, StackError, UsageError
from dermbatch.records.outcome import FailureRecord, ResultRecord

_LOOK_EVERY = 1.0
_TYPE = "application/offset+octet-stream"
_TRIES = 5


class DeskClient:
    """Speaks to one desk. Every method raises ``StackError`` where it does not answer or lets nobody in.

    Args:
        link: A one-time link, as ``dermbatch desk`` prints it; or its address, where ``key`` or ``headers``
            tell who asks.
        key: A key (``dermbatch desk keys add``) or an access token, by which it asks instead.
        headers: That go with every request, such as those by which a proxy authenticates.
        timeout: Seconds that an answer may take; a large prefix takes long to be planned.
    """

    def __init__(
        self, link: str, *, key: str | None = None, headers: dict[str, str] | None = None, timeout: float = 600
    ) -> None:
        parts = urlsplit(link)
        headers = {**(headers or {}), **({} if key is None else {"authorization": f"Bearer {key}"})}
        self._http = httpx.Client(base_url=f"{parts.scheme}://{parts.netloc}", headers=headers, timeout=timeout)
        try:
            if parts.query:
                self._http.get(f"{parts.path}?{parts.query}")
            self._http.headers["x-csrf-token"] = self._json("GET", "/v1/session")["csrf"]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def submit(self, *inputs: str | Path, batch: str | None = None, **asked: Any) -> str:
        """Give images to the system, as :meth:`dermbatch.client.Client.submit`; files and folders are uploaded.

        Args:
            *inputs: Files, folders, archives, ``s3://bucket/prefix``.
            batch: Name of the batch; made from the time where none is given.
            **asked: The other fields of the API's ``POST /v1/batches``: ``stages``, ``models``, ``lane`` ...

        Returns:
            The name of the batch.

        Raises:
            UsageError: For what cannot be.
        """
        named = [str(given) for given in inputs]
        files = [Path(given) for given in named if not given.startswith("s3://")]
        prefixes = [given for given in named if given.startswith("s3://")]
        body = {"inputs": [*prefixes, *self._uploaded(files)], "batch": batch, **asked}
        headers = {"idempotency-key": token_hex(16)}
        return str(self._json("POST", "/v1/batches", json=body, headers=headers)["name"])

    def status(self, batch: str) -> dict[str, Any]:
        """How a batch stands: the fields of ``status --json``."""
        found: dict[str, Any] = self._json("GET", f"/v1/batches/{batch}")
        return found

    def wait(self, batch: str, timeout: float | None = None) -> dict[str, Any]:
        """Wait until a batch is closed; then as :meth:`status`.

        Raises:
            TimeoutError: If it is not closed in time; it goes on anyway.
        """
        ends = None if timeout is None else time.monotonic() + timeout
        while (found := self.status(batch))["closed"] is None:
            if ends is not None and time.monotonic() > ends:
                raise TimeoutError(f"batch {batch!r} is not closed after {timeout:g} s")
            time.sleep(_LOOK_EVERY)
        return found

    def results(self, batch: str, query: str = "", sort: str = "") -> Iterator[ResultRecord | FailureRecord]:
        """What became of the images that a query means, in order; of all where none is given."""
        asked: dict[str, str] = {"batch": batch, "q": query, "sort": sort, "limit": "500"}
        page = self._json("GET", "/v1/results", params=asked)
        while True:
            for row in page["results"]:
                yield self._record(row["batch"], row["index"], done=row["outcome"] == "done")
            if page["next"] is None:
                return
            page = self._json("GET", page["next"])

    def artifact(self, result: ResultRecord, name: str) -> bytes:
        """A file that a stage made of an image.

        Raises:
            ObjectNotFound: If the image has none, or it was deleted.
        """
        return self._ask("GET", f"/v1/batches/{result.batch}/images/{result.index}/files/{name}").content

    def _record(self, batch: str, index: int, *, done: bool) -> ResultRecord | FailureRecord:
        body = self._ask("GET", f"/v1/batches/{batch}/images/{index}/record").content
        kind: type[ResultRecord | FailureRecord] = ResultRecord if done else FailureRecord
        return kind.model_validate_json(body)

    def _uploaded(self, inputs: list[Path]) -> list[str]:
        into: str | None = None
        for given in inputs:
            for path, name in _files(given):
                upload = {"name": name, "size": path.stat().st_size, "into": into}
                begun = self._json("POST", "/v1/uploads", json=upload)
                into = begun["into"]
                self._send(path, begun["id"], begun["piece"])
        return [] if into is None else [f"upload:{into}"]

    def _send(self, path: Path, identifier: str, piece: int) -> None:
        size, at, tries = path.stat().st_size, 0, 0
        with path.open("rb") as file:
            while at < size:
                file.seek(at)
                headers = {"upload-offset": str(at), "content-type": _TYPE}
                try:
                    answer = self._ask(
                        "PATCH", f"/v1/uploads/{identifier}", content=file.read(piece), headers=headers
                    )
                except StackError:
                    tries += 1
                    if tries == _TRIES:
                        raise
                    time.sleep(2**tries / 4)
                    answer = self._ask("HEAD", f"/v1/uploads/{identifier}")
                at = int(answer.headers["upload-offset"])

    def _json(self, method: str, path: str, **more: Any) -> Any:
        return self._ask(method, path, **more).json()

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **more)
        except httpx.HTTPError as error:
            raise StackError(f"the desk does not answer: {error}") from error
        if answer.is_success:
            return answer
        raise _error(answer)


def _files(given: Path) -> Iterator[tuple[Path, str]]:
    """Files with what they are called: below a folder, by their paths in it; hidden ones are left."""
    if given.is_file():
        yield given, given.name
        return
    found = [path for path in sorted(given.rglob("*")) if path.is_file()]
    visible = [path for path in found if not any(part.startswith(".") for part in path.relative_to(given).parts)]
    if not visible:
        raise UsageError(f"{given} is neither a file nor a folder with files")
    for path in visible:
        yield path, f"{given.name}/{path.relative_to(given).as_posix()}"


def _error(answer: httpx.Response) -> DermbatchError:
    try:
        problem = answer.json()
        detail, reason = str(problem["detail"]), str(problem["reason"])
    except (ValueError, KeyError):
        detail, reason = f"the desk answered {answer.status_code}", "stack"
    if answer.status_code in {404, 410} and reason != "usage":
        return ObjectNotFound(detail, reason=reason)
    if answer.status_code in {401, 403} or answer.status_code >= 500 or answer.status_code < 400:
        return StackError(detail, reason=reason)
    return UsageError(detail, reason=reason)
