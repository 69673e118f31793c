"""The documents say what the code does: metrics, settings, reasons, commands, files.

``python tests/unit/test_docs.py`` prints the settings with their defaults, as ``docs/settings.md`` has them.
"""

import ast
import functools
import inspect
import json
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel

import lesionnets.cli
from dermbatch import metrics
from dermbatch.client import Client
from dermbatch.ledger import Ledger, Snapshot
from dermbatch.ledger.queue import QUEUES
from dermbatch.models.contracts import CONTRACTS
from dermbatch.records import asked, outcome
from dermbatch.settings import Settings
from orchestrator.cli.program import program
from orchestrator.dispatch.service import LedgerMetrics

ROOT = Path(__file__).parents[2]
PACKAGES = ("dermbatch", "orchestrator", "workers", "lesionnets", "desk")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(p for d in ("docs", "deploy", "charts") for p in (ROOT / d).rglob("*.md"))]
)
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def tables(name):
    """Every row of every table of a document, as a dictionary by the table's own headings."""
    rows, headings = [], None
    for line in text(name).splitlines():
        if not line.startswith("|"):
            headings = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if headings is None:
            headings = cells
        elif set("".join(cells)) != {"-"}:
            assert len(cells) == len(headings), f"{name}: {line}"
            rows.append(dict(zip(headings, cells, strict=True)))
    return rows


def prose(name):
    """A document without its code blocks."""
    return re.sub(r"^```.*?^```", "", text(name), flags=re.DOTALL | re.MULTILINE)


def codes(cell):
    return re.findall(r"`([^`]+)`", cell)


@functools.cache
def sources():
    return {path: path.read_text(encoding="utf-8") for path in SOURCES}


# Metrics


class QuietLedger(Ledger):
    """Answers as the ledger of an idle stack, so that the collector can be asked for its families."""

    def __init__(self):
        pass

    def snapshot(self):
        return Snapshot()


def defined_metrics():
    """(name as scraped, type, labels) of every metric; the worker's and the orchestrator's."""
    found = set()
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            suffix = "_total" if family.type == "counter" else ""
            found.add((family.name + suffix, family.type, tuple(metric._labelnames)))
    for family in LedgerMetrics(QuietLedger()).collect():
        labels = {tuple(sample.labels) for sample in family.samples} or {tuple(family._labelnames)}
        found.add((family.name, family.type, *labels))
    return found


def processes_of(name):
    """Which process feeds a metric, by the packages that name it."""
    users = {path.relative_to(ROOT).parts[0] for path, source in sources().items() if f"metrics.{name}" in source}
    if "dermbatch" in users or {"workers", "orchestrator"} <= users:
        return "both"
    return {"workers": "worker", "orchestrator": "orchestrator", "desk": "desk"}[users.pop()]


def test_every_metric_is_listed_as_it_is_and_none_else():
    listed = {(codes(r["Metric"])[0], r["Type"], tuple(codes(r["Labels"]))) for r in tables("docs/metrics.md")}
    assert listed == defined_metrics()


def test_a_metrics_process_is_the_one_that_feeds_it():
    listed = {codes(row["Metric"])[0]: row["Process"] for row in tables("docs/metrics.md")}
    for name, metric in vars(metrics).items():
        if isinstance(metric, MetricWrapperBase):
            exported = metric._name + ("_total" if metric._type == "counter" else "")
            assert listed.pop(exported) == processes_of(name), name
    assert set(listed.values()) == {"orchestrator"}  # what is left are the ledger's


def test_the_values_of_bounded_labels_are_listed():
    meaning = {codes(row["Metric"])[0]: set(codes(row["Meaning"])) for row in tables("docs/metrics.md")}
    outcomes = {o for source in sources().values() for o in re.findall(r'IMAGES\.labels\("(\w+)"\)', source)}
    assert outcomes == meaning["dermbatch_images_total"]
    assert set(QuietLedger().snapshot().states) == meaning["dermbatch_in_flight_images"]
    assert set(QUEUES) == meaning["dermbatch_queue_depth"]


def test_the_reasons_of_dead_letters_are_those_that_are_not_permanent():
    rows = [row for row in tables("docs/failures.md") if "Permanent" in row]
    assert {codes(r["Reason"])[0] for r in rows if r["Permanent"] == "no"} | {"poison"} == set(metrics.GIVEN_UP)


# Settings


def variables(model=Settings, prefix="DERMBATCH_"):
    """Variable to default (None: not set), by the fields of the settings."""
    found = {}
    for name, field in model.model_fields.items():
        variable = prefix + name.upper()
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= variables(kind, variable + "__")
        elif isinstance(field.default, dict):
            plain = {str(key): value.model_dump(exclude_none=True) for key, value in field.default.items()}
            found[variable] = json.dumps(plain, separators=(",", ":"))
        elif isinstance(field.default, tuple):
            found[variable] = json.dumps(field.default, separators=(",", ":"))
        else:
            default = field.default
            found[variable] = (
                None if default is None else f"{default:g}" if isinstance(default, float) else str(default)
            )
    return found


def listed_variables():
    rows = [row for row in tables("docs/settings.md") if "Default" in row]
    return {
        codes(row["Variable"])[0]: None if row["Default"] == "none" else codes(row["Default"])[0] for row in rows
    }


def test_every_setting_is_listed_with_its_default_and_none_else():
    assert listed_variables() == variables()


def test_listed_defaults_set_as_variables_change_nothing(monkeypatch):
    for name in listed_variables():
        monkeypatch.delenv(name, raising=False)
    plain = Settings()
    for name, default in listed_variables().items():
        if default is not None:
            monkeypatch.setenv(name, default)
    assert Settings() == plain


def test_variables_of_commands_are_listed():
    listed = {codes(row["Variable"])[0] for row in tables("docs/settings.md") if "Read by" in row}
    assert listed == {
        name
        for command in commands().values()
        for parameter in command.params
        for name in [parameter.envvar]
        if name is not None
    }


def test_what_the_stack_sets_is_what_the_table_says(monkeypatch, tmp_path):
    from dermbatch.models.repository import default_model_repository
    from orchestrator.stack.stack import Stack

    stack = Stack(tmp_path, Settings(), model_repository=default_model_repository())
    stack._prepare()
    asked, given = (flat(settings.model_dump()) for settings in (Settings(), stack.settings))
    changed = {name for name in asked if asked[name] != given[name]}
    rows = {codes(row["Variable"])[0]: row["Set by"] for row in tables("docs/settings.md") if "Set by" in row}
    assert changed == {name for name, by in rows.items() if by.startswith("stack")}


def flat(dumped, prefix="DERMBATCH_"):
    found = {}
    for name, value in dumped.items():
        variable = f"{prefix}{name}".upper()
        nested = isinstance(value, dict) and variable != "DERMBATCH_MODELS"
        found |= flat(value, variable + "__") if nested else {variable: value}
    return found


# Reasons


def constants(node):
    """Texts that an expression may be: an f-string as a pattern, a dictionary by its keys."""
    match node:
        case ast.Constant(value=str(value)):
            return {re.escape(value)}
        case ast.JoinedStr(values=values):
            parts = (re.escape(v.value) if isinstance(v, ast.Constant) else r"\w+" for v in values)
            return {"".join(map(str, parts))}
        case ast.IfExp(body=body, orelse=orelse):
            return constants(body) | constants(orelse)
        case ast.Dict(keys=keys):
            return {found for key in keys for found in constants(key)}
    return set()


def reasons_in(tree):
    """What a module gives as ``reason``: as keyword, as argument of that name, as variable or class attribute."""
    nodes = list(ast.walk(tree))
    functions = {node.name: node.args for node in nodes if isinstance(node, ast.FunctionDef)}
    found = set()
    for node in nodes:
        match node:
            case ast.keyword(arg="reason", value=value):
                found |= constants(value)
            case ast.Assign(targets=[ast.Name(id="reason" | "reasons")], value=value):
                found |= constants(value)
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                for name, value in zip(names, values, strict=True):
                    if isinstance(name, ast.Name) and name.id == "reason":
                        found |= constants(value)
            case ast.Call(func=ast.Name(id=name), args=arguments) if name in functions:
                for parameter, argument in zip(functions[name].args, arguments, strict=False):
                    if parameter.arg == "reason":
                        found |= constants(argument)
    return found


def listed_reasons():
    return [codes(row["Reason"])[0] for row in tables("docs/failures.md")]


def base_reasons():
    """The codes of base classes, which the last lines of the document name."""
    return set(codes(prose("docs/failures.md").rpartition("Base classes")[2]))


def test_every_reason_is_listed_once_and_none_else():
    named = [source for source in sources().values() if "reason" in source]  # to parse all costs seconds
    given = {pattern for source in named for pattern in reasons_in(ast.parse(source))}
    listed = listed_reasons()
    assert len(set(listed)) == len(listed)
    known = set(listed) | base_reasons()
    assert {pattern for pattern in given if not any(re.fullmatch(pattern, code) for code in known)} == set()
    assert {code for code in known if not any(re.fullmatch(pattern, code) for pattern in given)} == set()


def test_reasons_are_found_in_whatever_way_they_are_given():
    tree = ast.parse(
        "def f(name, reason): ...\n"
        "f(1, 'a')\n"
        "E('m', reason='b' if x else other)\n"
        "reasons = {'c': 1}\n"
        "reason, message = 'd', 'e'\n"
        "E(reason=f'{what}_f')\n"
        "class G:\n    reason = 'g'\n"
    )
    assert reasons_in(tree) == {"a", "b", "c", "d", r"\w+_f", "g"}


# Records


def test_every_field_of_a_batch_and_a_result_is_explained():
    explained = set(codes(prose("docs/results.md")))
    shown = (
        asked.Batch,
        asked.Order,
        outcome.ResultRecord,
        outcome.SourceInfo,
        outcome.StageRecord,
        outcome.ModelUsed,
        outcome.PurifyOutput,
        outcome.SegmentOutput,
        outcome.EnhanceOutput,
        outcome.ClassifyOutput,
        outcome.LesionGeometry,
        outcome.ColourStatistics,
    )
    fields = {name for record in shown for name in record.model_fields} - {"kind"}
    assert fields - explained == set()
    assert set(outcome.QualityFlag.__args__) - explained == set()


def test_the_contracts_are_those_of_the_code():
    rows = {row["Stage"]: row for row in tables("docs/architecture.md") if "Inputs" in row}
    assert set(rows) == set(CONTRACTS)
    for stage, contract in CONTRACTS.items():
        for tensors, cell in (
            (contract.inputs, rows[stage]["Inputs"]),
            (contract.outputs, rows[stage]["Outputs"]),
        ):
            assert [(t.name, t.dtype) for t in tensors] == re.findall(r"`(\w+)` (\w+) \[", cell)


# Commands


@functools.cache
def commands():
    """``dermbatch run`` and so on to their commands, of both programs."""
    found = {}

    def visit(name, command):
        found[name] = command
        for sub, inner in getattr(command, "commands", {}).items():
            visit(f"{name} {sub}", inner)

    visit("dermbatch", program())
    visit("lesionnets", typer.main.get_command(lesionnets.cli.app))
    return found


def mentioned(document):
    """Command lines in a document's code, blocks and spans alike."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", text(document), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = codes(prose(document))
    for line in [*lines, *spans]:
        words = line.split("#")[0].replace("[", "").replace("]", "").split()
        if words and words[0].removeprefix(".venv/bin/") in ("dermbatch", "lesionnets"):
            yield [words[0].removeprefix(".venv/bin/"), *words[1:]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_exist(document):
    known = commands()
    for words in mentioned(document):
        name = words.pop(0)
        while words and f"{name} {words[0]}" in known:
            name += f" {words.pop(0)}"
        command = known[name]
        assert not hasattr(command, "commands") or not words or words[0].startswith("-"), (name, words)
        options = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
        assert {word for word in words if word.startswith("-")} <= options, (name, words)


def test_the_options_of_run_are_listed_with_their_defaults():
    listed = {
        codes(row["Option of `run`"])[0].split()[0]: row["Default"]
        for row in tables("README.md")
        if "Option of `run`" in row
    }
    run = commands()["dermbatch run"]
    options = {parameter.opts[0]: parameter for parameter in run.params if parameter.param_type_name == "option"}
    options.pop("--help", None)
    assert set(listed) == set(options)
    for name, default in listed.items():
        assert (default == "required") == options[name].required
        if codes(default):
            assert codes(default)[0] == options[name].default


def test_every_recipe_is_listed_with_what_it_reads():
    listed = [recipe for row in tables("docs/data.md") if "Recipe" in row for recipe in codes(row["Recipe"])]
    recipes = {path.stem for path in (ROOT / "lesionnets/recipes").glob("*/[a-z]*.py")}
    assert sorted(listed) == sorted(recipes)


# The Python API


def test_the_methods_of_the_client_are_listed_with_their_arguments():
    methods = {name: value for name, value in vars(Client).items() if not name.startswith("_") and name != "local"}
    listed = {codes(row["Method"])[0].split("(")[0] for row in tables("docs/python.md") if "Method" in row}
    assert listed == {name for name, value in methods.items() if inspect.isfunction(value)}
    arguments = {name for row in tables("docs/python.md") for name in codes(row.get("Argument of `submit`", ""))}
    assert arguments == set(inspect.signature(Client.submit).parameters) - {"self", "inputs"}


# Files


def test_the_readme_begins_with_targets_of_the_makefile():
    block = re.search(r"^```sh\n(.*?)^```", text("README.md"), re.DOTALL | re.MULTILINE).group(1)
    wanted = [shlex.split(line, comments=True) for line in block.splitlines()]
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    assert [words[0] for words in wanted] == ["make", "make"]
    assert {target for words in wanted for target in words[1:]} <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_targets_of_the_makefile_exist(document):
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    content = document.read_text(encoding="utf-8")
    named = re.findall(r"(?:^|`)make ([a-z][a-z-]*(?: [a-z-]+)*)(?=`|\s+#|$)", content, re.MULTILINE)
    assert {target for words in named for target in words.split()} <= targets


def anchors(path):
    """The fragments that a document's headings can be linked by, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, fragment = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), f"{document.name}: {target}"
        assert path.is_relative_to(ROOT)
        if fragment:
            assert fragment in anchors(path), f"{document.name}: {target}"


def test_the_picture_of_the_services_says_what_the_table_says():
    picture = " ".join("".join(ElementTree.parse(ROOT / "docs/images/services.svg").getroot().itertext()).split())
    rows = [row for row in tables("docs/architecture.md") if "Service" in row]
    assert len(rows) == 9
    for row in rows:
        service = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", row["Service"])
        assert f"{service} {row['What it does']}" in picture


def test_documents_that_the_code_names_are_there():
    named = {
        name for path in SOURCES for name in re.findall(r"docs/[\w/.-]+\.md", path.read_text(encoding="utf-8"))
    }
    assert {name for name in named if not (ROOT / name).is_file()} == set()


# Decisions


def test_every_decision_has_a_number_of_its_own():
    headings = {path.name[:4]: path.read_text(encoding="utf-8") for path in (ROOT / "docs/decisions").glob("*.md")}
    assert len(headings) == len(list((ROOT / "docs/decisions").glob("*.md")))
    for number, decision in headings.items():
        assert decision.startswith(f"# {int(number)}. ")


if __name__ == "__main__":
    for variable, default in variables().items():
        print(f"| `{variable}` | {'none' if default is None else f'`{default}`'} | | |")
