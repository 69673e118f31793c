import pytest

from tests.needed import program
from tests.prometheus_server import promtool


@pytest.mark.parametrize(
    "ask", [lambda: program("promtool", "prometheus"), lambda: promtool("check", "rules", "rules.yaml")]
)
def test_without_a_program_a_test_is_skipped_and_in_ci_it_fails(ask, monkeypatch):
    monkeypatch.setattr("tests.needed.shutil.which", lambda name, path: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs promtool: make system-packages"):
        ask()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="promtool is missing"):
        ask()
