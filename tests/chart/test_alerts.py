"""The rules for Prometheus: whole, tested each way, and explained."""

import re
from pathlib import Path

import pytest
import yaml

from dermbatch import metrics
from tests.prometheus_server import DEPLOYED, promtool, rules

DOCS = Path(__file__).parents[2] / "docs"
ALERTS, RECORDED = rules("alert"), rules("record")


def cases():
    """Alert to whether each of its cases expects it to fire."""
    found = {}
    for path in sorted((DEPLOYED / "tests").glob("*.yaml")):
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for case in test.get("alert_rule_test", ()):
                name, fires = case["alertname"], bool(case["exp_alerts"])
                words = "fires: " if fires else "does not fire: "
                assert test["name"].startswith(f"{name} {words}"), test["name"]
                found.setdefault(name, []).append(fires)
    return found


def sections():
    """The runbook's sections: heading to text."""
    parts = re.split(r"^## (.+)$", (DOCS / "runbook.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_rules_and_the_configuration_are_valid():
    for args in (("rules", DEPLOYED / "rules.yaml"), ("config", DEPLOYED / "prometheus.yaml")):
        code, output = promtool("check", *args)
        assert code == 0, output


@pytest.mark.parametrize("path", sorted((DEPLOYED / "tests").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_cases_of_the_rules_come_out_as_they_say(path):
    code, output = promtool("test", "rules", path)
    assert code == 0, output


def test_a_case_that_is_not_so_would_be_noticed(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "rules.yaml").write_text((DEPLOYED / "rules.yaml").read_text().replace("> 0.8", "> 0.95"))
    changed = tmp_path / "tests" / "parts.yaml"
    changed.write_text((DEPLOYED / "tests" / "parts.yaml").read_text())
    code, output = promtool("test", "rules", changed)
    assert code == 1
    assert "DermbatchRedisMemory" in output


def test_every_alert_has_a_case_that_fires_it_and_one_that_does_not():
    assert {name: {True, False} for name in ALERTS} == {name: set(fires) for name, fires in cases().items()}


def test_every_alert_says_how_bad_it_is_and_leads_to_its_section_of_the_runbook():
    runbook = sections()
    assert set(runbook) == set(ALERTS)
    for name, alert in ALERTS.items():
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        assert {"summary", "description", "runbook_url"} == set(alert["annotations"]), name
        assert alert["annotations"]["runbook_url"].endswith(f"/docs/runbook.md#{name.lower()}")
        for word in (r"\*\*Look", r"\*\*(Do:|Look and do)"):
            assert re.search(word, runbook[name]), name


def test_dead_letters_are_those_that_the_code_gives_up():
    (reasons,) = re.findall(r'reason=~"([^"]+)"', ALERTS["DermbatchDeadLetters"]["expr"])
    assert set(reasons.split("|")) == set(metrics.GIVEN_UP)


def test_the_objective_lies_on_a_bound_of_the_histogram():
    bounds = metrics.WAITING_SECONDS._upper_bounds
    late = [rule["expr"] for name, rule in RECORDED.items() if name.startswith("dermbatch:live_late:")]
    assert len(late) == 4
    for expression in late:
        (bound,) = re.findall(r'le=~"(\d+)', expression)
        assert float(bound) in bounds
