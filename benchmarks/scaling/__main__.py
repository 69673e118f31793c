"""Replay work against the scaling rules and say how long it takes, what it costs and how long images wait.

python -m benchmarks.scaling --trace morning-dump|archive|node-losses [--set TARGET.FIELD=N ...] [--plot FILE]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.scaling.options import RULES, NodePrices, Options, Speed, changed, measured, read_rules
from benchmarks.scaling.outcome import LONG
from benchmarks.scaling.simulation import Simulation
from benchmarks.scaling.traces import TRACES


def main(args: list[str] | None = None) -> None:
    """Simulate one trace."""
    asked = _parser().parse_args(args)
    options = _options(asked)
    outcome = Simulation(TRACES[asked.trace](asked.seed), options).run()
    console = Console(highlight=False)
    if asked.json:
        print(json.dumps(outcome.figures(options.prices)))
    else:
        console.print(outcome.table(options.prices))
        if outcome.dark > LONG:
            console.print(
                f"For {outcome.dark:.0f} s images waited for Triton and there was none. Keep more servers than "
                "are lost at a time (--set triton.min_replicas=2)."
            )
    if asked.plot:
        from benchmarks.scaling.plot import plot  # noqa: PLC0415 - slow to import

        plot(outcome, options.prices, asked.plot)


def _options(asked: argparse.Namespace) -> Options:
    rules = changed(read_rules(asked.rules), asked.set)
    speed = measured(asked.summary.read_bytes(), asked.slots) if asked.summary else Speed(slots=asked.slots)
    if asked.worker_seconds:
        speed = replace(speed, worker=asked.worker_seconds)
    if asked.triton_seconds:
        speed = replace(speed, triton=asked.triton_seconds)
    prices = NodePrices(asked.gpu_price, asked.cpu_price)
    return Options(rules, speed, prices=prices, workers_wait=not asked.workers_do_not_wait)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--trace", choices=sorted(TRACES), required=True)
    parser.add_argument("--rules", type=Path, default=RULES, help="a file such as deploy/prometheus/scaling.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="TARGET.FIELD=N", help="change a rule")
    parser.add_argument("--summary", type=Path, help="a batch's summary.json, for the speed")
    parser.add_argument("--slots", type=int, default=Speed().slots, help="images at a time in one worker")
    parser.add_argument("--worker-seconds", type=float, help="of an image outside Triton")
    parser.add_argument("--triton-seconds", type=float, help="of an image in Triton, all stages")
    parser.add_argument("--gpu-price", type=float, default=NodePrices().gpu_node, help="of a GPU node for an hour")
    parser.add_argument("--cpu-price", type=float, default=NodePrices().cpu_node, help="of a CPU node for an hour")
    parser.add_argument(
        "--workers-do-not-wait",
        action="store_true",
        help="workers start without any Triton server, unlike the chart's",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the course as PNG or SVG")
    return parser


if __name__ == "__main__":
    main()
