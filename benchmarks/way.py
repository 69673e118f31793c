"""The way of one task through a code base: which functions call which, from room to room (a room is a folder).

:class:`Recorder` takes down the calls of functions whose code lies in given packages, in all threads. What stands
between two of them (a library, a context manager, a pool's machinery) is passed over: the caller is the next
function of ours that the call came from. What a thread pool runs goes on from where it was submitted, so that the
record does not depend on which thread was faster. Each call is taken down once, however often it comes.

No calls are: the body of a module that is imported on the way, comprehensions and generator expressions (they are
part of the function in which they stand), and a generator that goes on.
"""

from __future__ import annotations

import dis
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

_PARTS = ("<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>")


class Function(NamedTuple):
    """A function of ours.

    Attributes:
        module: Its file, without the suffix, from the root on: ``workers/stages/classify``.
        name: Its qualified name there.
    """

    module: str
    name: str

    @property
    def folder(self) -> str:
        """Where its module lies: ``workers/stages``."""
        return self.module.rpartition("/")[0]

    def __str__(self) -> str:
        return f"{self.module}.py:{self.name}"


class Call(NamedTuple):
    """A call of one function of ours by another.

    Attributes:
        caller: None for the first one.
        callee: Who is called.
        left: Folders of all functions that wait for the caller, which the way has left by calling out of them.
    """

    caller: Function | None
    callee: Function
    left: frozenset[str] = frozenset()

    @property
    def crosses(self) -> bool:
        """Whether it leads into another folder."""
        return self.caller is not None and self.caller.folder != self.callee.folder


class Strand:
    """What one thread did for one thing that it was given: calls, and strands that they began, in their order."""

    def __init__(self) -> None:
        self._items: dict[Call | Strand, None] = {}

    def add(self, item: Call | Strand) -> None:
        """Take it down, where it is new here."""
        self._items.setdefault(item)

    def calls(self) -> Iterator[Call]:
        """All calls, those of a strand where it was begun."""
        for item in self._items:
            if isinstance(item, Call):
                yield item
            else:
                yield from item.calls()


class Recorder:
    """Takes down calls.

    Args:
        root: Folder that holds the packages.
        packages: Their names.
    """

    def __init__(self, root: Path, packages: Sequence[str]) -> None:
        self._root = root.resolve()
        self._packages = packages
        self._functions: dict[tuple[str, str], Function | None] = {}
        self._whole = Strand()
        self._here = threading.local()

    @property
    def calls(self) -> list[Call]:
        """What was taken down, in order, each once."""
        return list(dict.fromkeys(self._whole.calls()))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Take down what is called while inside, in this thread and in threads that begin meanwhile."""
        self._here.strand, self._here.stack = self._whole, ()
        submit = ThreadPoolExecutor.submit
        # A pool's thread does not know who has sent it: the submitting stack is handed on with the work.
        ThreadPoolExecutor.submit = self._submitting(submit)  # type: ignore[method-assign]
        threading.setprofile(self._event)
        sys.setprofile(self._event)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]
            ThreadPoolExecutor.submit = submit

    def _submitting(self, submit: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
        def handing_on(
            pool: ThreadPoolExecutor, work: Callable[..., Any], /, *args: Any, **named: Any
        ) -> Future[Any]:
            stack, strand = self._stack(sys._getframe(1)) or (), Strand()
            self._strand().add(strand)

            def begun() -> Any:
                self._here.strand, self._here.stack = strand, stack
                return work(*args, **named)

            return submit(pool, begun)

        return handing_on

    def _event(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if (
            event != "call"
            or code.co_name in _PARTS
            or (callee := self._function(code)) is None
            or _goes_on(frame)
        ):
            return
        stack = self._stack(frame.f_back)
        if stack is None or code.co_name == "<module>":
            return
        caller, *waiting = stack or (None,)
        self._strand().add(Call(caller, callee, frozenset(one.folder for one in waiting if one is not None)))

    def _strand(self) -> Strand:
        if not hasattr(self._here, "strand"):  # a thread of a library, which is not sent by a pool
            self._here.strand, self._here.stack = Strand(), ()
            self._whole.add(self._here.strand)
        strand: Strand = self._here.strand
        return strand

    def _stack(self, frame: FrameType | None) -> tuple[Function, ...] | None:
        """Functions of ours from the innermost outwards; none while a module of ours is imported."""
        found: list[Function] = []
        while frame is not None:
            if (function := self._function(frame.f_code)) is not None:
                if frame.f_code.co_name == "<module>":
                    return None
                found.append(function)
            frame = frame.f_back
        return (*found, *getattr(self._here, "stack", ()))

    def _function(self, code: CodeType) -> Function | None:
        key = code.co_filename, code.co_qualname  # code objects of different files may be equal
        if key not in self._functions:
            self._functions[key] = self._found(code)
        return self._functions[key]

    def _found(self, code: CodeType) -> Function | None:
        path = Path(code.co_filename)
        if not path.is_relative_to(self._root):
            return None
        module = path.relative_to(self._root).with_suffix("")
        if module.parts[0] not in self._packages:
            return None
        name = code.co_qualname
        while name.endswith(_PARTS):
            name = name.rpartition(".<locals>.")[0]
        return Function(module.as_posix(), name)


def modules(calls: Sequence[Call]) -> list[str]:
    """Modules in the order in which they are entered."""
    return list(dict.fromkeys(call.callee.module for call in calls))


def folders(calls: Sequence[Call]) -> list[str]:
    """Folders in the order in which they are entered."""
    return list(dict.fromkeys(call.callee.folder for call in calls))


def returns(calls: Sequence[Call]) -> list[tuple[Function, Function]]:
    """Calls back into a folder that the way has left by calling out of it, and that waits: each pair once."""
    found = ((call.caller, call.callee) for call in calls if call.crosses and call.callee.folder in call.left)
    return list(dict.fromkeys((caller, callee) for caller, callee in found if caller is not None))


def entries_back(calls: Sequence[Call]) -> list[tuple[str, str]]:
    """Where the next module entered first lies in another folder than the one before, and one seen before."""
    seen: set[str] = set()
    found, last = [], ""
    for module in modules(calls):
        folder = module.rpartition("/")[0]
        if last and folder != last.rpartition("/")[0] and folder in seen:
            found.append((last, module))
        seen.add(folder)
        last = module
    return found


def arrows_back(calls: Sequence[Call]) -> list[tuple[str, str]]:
    """Distinct calls from a module into one of another folder that had been entered and left before."""
    arrows: dict[tuple[str, str], bool] = {}
    entered: set[str] = set()
    for call in calls:
        if call.crosses and call.caller is not None:
            arrows.setdefault((call.caller.module, call.callee.module), call.callee.folder in entered)
        entered.add(call.callee.folder)
    return [arrow for arrow, back in arrows.items() if back]


def _goes_on(frame: FrameType) -> bool:
    """Whether a generator goes on, rather than begins."""
    code = frame.f_code
    if not code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        return False
    first = next(step.offset for step in dis.get_instructions(code) if step.opname == "RESUME")
    return frame.f_lasti > first
