"""What the command line says about itself."""

import re
import shlex
import subprocess
import sys

import pytest
from typer.core import TyperGroup

from dermbatch import __version__
from orchestrator.cli import program as cli
from orchestrator.cli.examples import EXAMPLES
from orchestrator.cli.program import program


def leaves(command, path=""):
    for name, below in command.commands.items():
        where = f"{path} {name}".strip()
        if isinstance(below, TyperGroup):
            yield from leaves(below, where)
            if not below.invoke_without_command:
                continue
        yield where, below


PROGRAM = program()
LEAVES = dict(leaves(PROGRAM))


def test_every_command_has_an_example_and_no_other_has():
    assert set(EXAMPLES) == set(LEAVES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_commands_that_can_be_typed(name):
    words = shlex.split(EXAMPLES[name])
    path = name.split()
    assert words[: len(path) + 1] == ["dermbatch", *path]
    context = LEAVES[name].make_context(name, words[len(path) + 1 :])
    assert not context.args


@pytest.mark.parametrize("name", [*LEAVES, ""])
def test_help_is_plain(name, capsys):
    PROGRAM([*name.split(), "--help"], prog_name="dermbatch", standalone_mode=False)
    output = capsys.readouterr().out
    assert not re.search(r"<(bool|str|int|float|path|list|datetime)|`|:class:|\bArgs:|\[/", output)
    assert "-h" in output
    if name:
        assert "Example: dermbatch" in output


def test_only_the_module_of_the_typed_command_is_imported():
    for module, commands in cli._COMMANDS.items():
        for command in commands:
            assert list(program([command]).commands) == list(commands), module
    assert set(program(["no-such-command"]).commands) == {
        name for names in cli._COMMANDS.values() for name in names
    }


def test_the_version_needs_no_library():
    output = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "orchestrator.cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert output.stdout == f"{__version__}\n"
    for library in ("typer", "numpy", "pydantic", "boto3"):
        assert f" {library}\n" not in output.stderr
