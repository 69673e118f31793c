"""What containers are started with is what the programs take."""

import pytest
from rendering import ROOT, SITUATIONS, objects, of_kind, pods

from orchestrator.cli.program import program
from orchestrator.watching.rules.rules import load_rules

DERMBATCH = program()
STARTED = [
    (situation, name, tuple(container["args"]))
    for situation in SITUATIONS
    for name, pod in pods(objects(situation)).items()
    for container in pod["spec"]["containers"]
    if container["args" if "args" in container else "command"][0] == "dermbatch"
]


@pytest.mark.parametrize(("situation", "name", "words"), STARTED, ids=lambda value: None)
def test_commands_take_the_arguments_that_they_are_given(situation, name, words):
    _, command, *arguments = words
    context = DERMBATCH.commands[command].make_context(command, list(arguments))
    if command == "submit":
        assert context.params["inputs"] == [word for word in arguments if word.startswith("s3://")]
        assert context.params["batch_name"]
    else:
        assert str(context.params["rules"]).startswith("/etc/dermbatch/watch/")


def test_all_commands_of_the_chart_are_among_them():
    assert {words[1] for _, _, words in STARTED} == {"submit", "watch"}


def test_rules_of_the_situations_are_rules_that_the_watch_service_takes(tmp_path):
    found = 0
    for situation in SITUATIONS:
        for name, item in of_kind(objects(situation), "ConfigMap").items():
            if name.endswith("-watch"):
                path = tmp_path / situation
                path.write_text(item["data"]["rules.yaml"])
                found += len(load_rules(path).rules)
    assert found >= 3


def test_the_rules_of_compose_are_too():
    (rule,) = load_rules(ROOT / "deploy" / "compose" / "watch-rules.yaml").rules
    command = (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")
    assert f"/data/{rule.prefix.removeprefix('s3://').rstrip('/')} " in command
