"""What a new user does: ``make demo``, or a wheel installed somewhere else."""

import os
import subprocess
import sys
from pathlib import Path

from commands import failures, results

from tests.waiting import patience

ROOT = Path(__file__).parents[2]


def test_make_demo_does_what_the_readme_says(tmp_path):
    ended = subprocess.run(
        ["make", "demo", f"DEMO={tmp_path}/demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=patience(280),
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(results(tmp_path / "demo" / "out")) == 24
    assert failures(tmp_path / "demo" / "out") == {}
    assert f"Report: {tmp_path}/demo/out/report.html" in ended.stdout
    assert (tmp_path / "demo" / "out" / "report.html").stat().st_size > 100_000


def test_a_wheel_installed_elsewhere_brings_its_models(samples, tmp_path):
    def python(*args, **env):
        return subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=patience(240),
            check=False,
        )

    built = python("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").iterdir()
    site = tmp_path / "site packages"
    installed = python("-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel)
    assert installed.returncode == 0, installed.stderr
    assert len(list(site.glob("*/py.typed"))) == 5
    # Found before the checkout that this environment has installed for development.
    ask = "from dermbatch.models.repository import default_model_repository as found; print(found())"
    assert python("-P", "-c", ask, PYTHONPATH=str(site)).stdout.strip() == f"{site}/dermbatch/model_repository"
    image = sorted(samples.iterdir())[0]
    ended = python("-P", "-m", "orchestrator.cli", "run", image, "--out", "out", PYTHONPATH=str(site))
    assert ended.returncode == 0, ended.stderr
    assert len(results(tmp_path / "out")) == 1
