"""Counting the way: traces whose answers are known by hand, a small house that is really run, lines of code."""

import sys
from importlib import import_module
from textwrap import dedent

import pytest

from benchmarks.codelines import code_lines, crowded, lua_lines, python_lines
from benchmarks.way import Call, Function, Recorder, arrows_back, entries_back, folders, modules, returns

TASK = Function("w/task", "run")
HELP = Function("w/help", "ask")
STAGE = Function("w/stages/purify", "purify")
LEDGER = Function("d/ledger", "claim")


def called(*stack):
    """A call: the callee, its caller, and who waits for the caller."""
    callee, caller, *waiting = (*stack, None)[:2] + stack[2:]
    return Call(caller, callee, frozenset(one.folder for one in waiting))


def test_a_call_back_into_a_room_that_waits_is_a_return_and_a_second_call_from_it_is_none():
    calls = [
        called(TASK),
        called(LEDGER, TASK),
        called(STAGE, TASK),
        called(HELP, STAGE, TASK),  # the return
        called(LEDGER, TASK),  # not entered from a room that it waits for
        called(HELP, TASK),  # never left its room
        called(LEDGER, HELP, STAGE, TASK),
    ]
    assert returns(calls) == [(STAGE, HELP)]
    assert modules(calls) == ["w/task", "d/ledger", "w/stages/purify", "w/help"]
    assert folders(calls) == ["w", "d", "w/stages"]
    assert entries_back(calls) == [("w/stages/purify", "w/help")]
    assert arrows_back(calls) == [("w/stages/purify", "w/help"), ("w/help", "d/ledger")]


def test_a_pair_counts_once_whoever_waits_and_two_callers_count_twice():
    other = Function("w/stages/segment", "segment")
    calls = [
        called(TASK),
        called(HELP, STAGE, TASK),
        called(HELP, STAGE, LEDGER, TASK),
        called(HELP, other, TASK),
    ]
    assert returns(calls) == [(STAGE, HELP), (other, HELP)]


def test_a_way_without_returns_has_none():
    assert returns([called(TASK), called(STAGE, TASK), called(LEDGER, STAGE, TASK)]) == []


HOUSE = {
    "__init__": "",
    "task": """
        from concurrent.futures import ThreadPoolExecutor
        from hall.stages import purify

        def run(times):
            for _ in range(times):
                purify.purify(helping)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(purify.in_thread).result()
            from hall import late
            return late.done(number for number in range(times))

        def helping():
            return sum(turned(n) for n in steps())

        def turned(n):
            return n

        def steps():
            yield 1
            yield 2
        """,
    "late": """
        from hall.stages import purify

        purify.unseen()  # on import, which is no part of the way

        def done(numbers):
            return list(numbers)
        """,
    "stages/__init__": "",
    "stages/purify": """
        def purify(back):
            return [one() for one in (back, back)]

        def in_thread():
            from hall import task
            return task.turned(1)

        def unseen():
            pass
        """,
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the house in another folder each time; the calls."""
    for name, text in HOUSE.items():
        path = tmp_path / "hall" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    monkeypatch.syspath_prepend(tmp_path)

    def runs(times):
        recorder = Recorder(tmp_path, ("hall",))
        task = import_module("hall.task")
        with recorder.recording():
            task.run(times)
        for module in [name for name in sys.modules if name.split(".")[0] == "hall"]:
            del sys.modules[module]
        return recorder.calls

    yield runs
    assert sys.getprofile() is None


def test_a_run_is_taken_down_with_its_threads_and_without_imports_and_comprehensions(run):
    calls = run(1)
    assert [(str(call.caller), call.callee.name) for call in calls] == [
        ("None", "run"),
        ("hall/task.py:run", "purify"),
        ("hall/stages/purify.py:purify", "helping"),
        ("hall/task.py:helping", "steps"),
        ("hall/task.py:helping", "turned"),
        ("hall/task.py:run", "in_thread"),
        ("hall/stages/purify.py:in_thread", "turned"),
        ("hall/task.py:run", "done"),
    ]
    assert [(caller.name, callee.name) for caller, callee in returns(calls)] == [
        ("purify", "helping"),
        ("in_thread", "turned"),
    ]


def test_the_record_does_not_depend_on_how_often_a_loop_turns(run):
    assert run(1) == run(50)


def test_lines_of_code_are_no_blank_lines_no_comments_and_no_docstrings():
    text = '''
        """Of the module,
        two lines."""

        from x import y  # a comment beside code

        A = 1
        """Of the attribute."""


        def f(
            a,

            b,  # a blank line above
        ):
            # nothing
            """Of the function."""
            text = """first

            third"""
            return text
        '''
    # import, A, five lines of def without the blank one (4), text (2 of 3), return
    assert python_lines(dedent(text)) == 9
    assert lua_lines("-- what it does\n\nlocal a = 1 -- one\n--[[ two\nlines ]]\nreturn a\n") == 2


def test_folders_are_crowded_by_modules_at_one_level_and_lua_counts_as_code(tmp_path):
    inner = tmp_path / "package" / "inner"
    inner.mkdir(parents=True)
    for number in range(12):
        (inner / f"m{number}.py").write_text("a = 1\n")
    (inner / "__init__.py").write_text('"""Twelve."""\n')
    (inner / "script.lua").write_text("return 1\n")
    assert list(crowded([tmp_path / "package"])) == []
    assert code_lines([tmp_path / "package"]) == 13
    (inner / "m12.py").write_text("")
    assert list(crowded([tmp_path / "package"])) == [inner]
