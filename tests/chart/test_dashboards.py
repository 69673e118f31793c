"""The dashboards: fresh, valid, and laid out."""

import json
import re
from pathlib import Path

import pytest
import yaml

from deploy.grafana.build import FOLDER, dashboards
from tests.prometheus_server import promtool

BOARDS = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
VARIABLES = {"$namespace": ".*", "$__rate_interval": "1m", "$gpu_price": "2.50"}


def panels(board):
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries():
    """All expressions, with values for Grafana's variables."""
    texts = [target["expr"] for board in BOARDS.values() for panel in panels(board) for target in panel["targets"]]
    for variable, value in VARIABLES.items():
        texts = [text.replace(variable, value) for text in texts]
    return texts


def test_the_files_are_what_the_code_makes():
    made = {name: json.loads(text) for name, text in dashboards().items()}
    assert made == BOARDS, "stale: run python -m deploy.grafana.build"


def test_every_expression_is_one_for_prometheus(tmp_path):
    expressions = queries()
    assert len(expressions) > 60
    assert not [text for text in expressions if "$" in text], "a variable that the dashboard does not have"
    rules = [{"record": f"panel:{n}", "expr": text} for n, text in enumerate(expressions)]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    code, output = promtool("check", "rules", path)
    assert code == 0, output
    rules.append({"record": "panel:broken", "expr": "sum(rate(x[5m])"})
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert promtool("check", "rules", path)[0] != 0


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_laid_out_and_explained(name):
    board = BOARDS[name]
    assert board["uid"] == f"dermbatch-{name.removesuffix('.json')}"
    assert {"datasource", "namespace"} <= {variable["name"] for variable in board["templating"]["list"]}
    taken = set()
    for panel in panels(board):
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "$datasource"
        for target in panel["targets"]:
            assert 'namespace=~"$namespace"' in target["expr"], panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells


def test_grafana_is_told_where_dashboards_and_prometheus_are():
    folder = FOLDER.parent / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "dermbatch.yaml").read_text())["providers"]
    assert re.fullmatch(r"http://prometheus:\d+", source["url"])
    assert Path(provider["options"]["path"]).is_absolute()
