"""What the user named as input, image by image: files, folders, archives, ``s3://bucket/prefix``.

Nothing is decoded here, and memory use does not grow with the inputs. A folder or prefix may hold other things
than images: these are skipped and counted, whereas a file that the user named, or whose name or content looks like
an image, always gets an outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from dermbatch.audit import NO_AUDIT, Audit
from dermbatch.bounded.reader import Reader
from dermbatch.errors import PermanentError, UsageError
from dermbatch.records.asked import Filters, Position
from dermbatch.settings import Settings
from dermbatch.store import ObjectInfo, ObjectStore, split_uri
from orchestrator.planning.intake.candidates import START, Item, Skipped, Walk, refused
from orchestrator.planning.intake.expansion import Expansion, Node
from orchestrator.planning.intake.leaf import File, written
from orchestrator.planning.intake.prefix import Prefix
from orchestrator.planning.intake.selection import Selection
from orchestrator.planning.intake.tree import leaves


class Intake:
    """Walks inputs.

    Args:
        settings: For the limits of files and archives.
        source: The store that ``s3://`` inputs are read from; ``None`` if there is none.
        in_place: Whether the workers can read ``source`` themselves, so that its images need no copy.
        local: Whether they can read files of this machine.
        leave_out: A folder that is not walked: results written below an input are no input.
        audit: Where reads of local files are noted; for objects the store does so.
        pseudonym: What audit logs call files and objects; none if their own names will do.
        filters: Which files and objects are taken. Patterns are matched against the path below an input (what
            follows a prefix, an archive's path and a member's in it), so a file or object that is itself an
            input goes by its time alone. An archive's members have the archive's time.

    Raises:
        UsageError: If the filters are invalid.
    """

    def __init__(
        self,
        settings: Settings,
        source: ObjectStore | None,
        *,
        in_place: bool,
        local: bool = False,
        leave_out: Path | None = None,
        filters: Filters | None = None,
        audit: Audit = NO_AUDIT,
        pseudonym: Callable[[str], str] | None = None,
    ) -> None:
        self._source = source.under(pseudonym) if source is not None else None
        self._in_place, self._local = in_place, local
        self._leave_out = leave_out.resolve() if leave_out is not None else None
        self._filters = filters or Filters()
        self._audit = audit.under(pseudonym)
        reader = Reader(settings.reading.limits, ("dermbatch.images.dicomhead",))
        self._expansion = Expansion(Selection(self._filters), settings.worker.max_bytes, settings.archive, reader)

    def check(self, inputs: Sequence[str], *, quoting: bool = True) -> None:
        """Find out early if something cannot be walked.

        Args:
            inputs: What the user named.
            quoting: Whether errors may quote inputs, rather than number them.

        Raises:
            UsageError: If a local input does not exist, or a URI is invalid.
        """
        for number, given in enumerate(inputs, start=1):
            named = given if quoting else f"input {number}"
            if given.startswith("s3://"):
                try:
                    split_uri(given)
                except ValueError as error:
                    raise UsageError(
                        str(error) if quoting else f"{named} is not an s3://bucket/key URI"
                    ) from error
                if self._source is None:
                    raise UsageError(
                        f"no object store is configured to read {named} from; set DERMBATCH_STORE__ENDPOINT_URL"
                    )
            elif not Path(given).exists():
                raise UsageError(f"no such file or folder: {named}")

    def walk(self, inputs: Sequence[str], *, unpack: bool = True) -> Walk:
        """Every candidate of every input, in the order given, folders and prefixes in the order of names.

        A store that cannot be listed at the moment ends a walk with its :class:`TransientError`; what can never be
        read is a refused candidate.

        Args:
            inputs: What the user named, as :meth:`check` has seen it.
            unpack: Whether members of archives are unpacked as the walk reaches them. Otherwise those named like
                images are not, and can be read only until the walk goes on.
        """
        named = tuple(given if given.startswith("s3://") else str(Path(given).resolve()) for given in inputs)
        return Walk(
            named, self._filters, partial(self._from, tuple(inputs), replace(self._expansion, unpack=unpack))
        )

    def objects(self, uri: str, infos: Iterable[ObjectInfo]) -> Iterator[Item]:
        """The items of these objects, which are known by other means to exist and to be wanted.

        Args:
            uri: The prefix that they are below.
            infos: The objects. The position of each item names the key of its object.

        Raises:
            StoreUnavailable, StoreRefused: If the store fails.
        """
        for key, leaf in self._prefix(uri).leaves(infos, self._expansion.matters):
            yield from self._expansion.items(leaf, Position(after=key))

    def _from(self, inputs: tuple[str, ...], expansion: Expansion, start: Position) -> Iterator[Item]:
        for number, given in islice(enumerate(inputs), start.input, None):
            begun = start if number == start.input else START
            try:
                for place, found in self._leaves(given, begun):
                    at, taken = Position(input=number, after=place), begun.taken if place == begun.after else 0
                    yield from expansion.items(found, at, taken)
            except PermanentError as error:
                yield refused(given, error, Position(input=number + 1))

    def _leaves(self, given: str, start: Position) -> Iterator[tuple[str, Node]]:
        """All leaves of an input after a position, starting with the item begun before, each with its place."""
        after, again = start.after, start.taken > 0
        if given.startswith("s3://"):
            prefix = self._prefix(given)
            yield from prefix.leaves(prefix.list(after=after, again=again), self._expansion.matters)
        elif Path(given).is_dir():
            yield from self._folder(Path(given).resolve(), after, again)
        elif after is None or again:
            yield "file", File(Path(given), Path(given).name, None, self._audit, in_place=self._local)

    def _folder(self, base: Path, after: str | None, again: bool) -> Iterator[tuple[str, Node]]:
        for entry in leaves(base, after=after, again=again, leave_out=self._leave_out):
            name = written(f"{base.name}/{entry.below}")
            found: Node = File(entry.path, name, entry.below, self._audit, in_place=self._local)
            if entry.kind == "link":
                found = Skipped(name)
            elif entry.kind == "sidecar":
                found = Skipped(name, why="sidecar")
            elif entry.kind == "closed":
                why = f"the folder cannot be read: {entry.why}"
                found = refused(name, PermanentError(why, reason="unreadable"))
            yield entry.place, found

    def _prefix(self, uri: str) -> Prefix:
        if self._source is None:
            raise UsageError(f"no object store is set up to read {uri} from")
        return Prefix(self._source, uri, in_place=self._in_place)
