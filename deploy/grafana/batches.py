"""The dashboard of who gives work: how far it is, when it will be done, what it costs."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard, TextBoxVariable

from deploy.grafana.panels import dashboard, figure, lines

_DONE = "sum(max by (namespace, lane, outcome) (dermbatch_open_outcomes{NS}))"
_LEFT = "sum(max by (namespace, lane) (dermbatch_images_left{NS}))"
_DONE_BY_LANE = "sum by (lane) (max by (namespace, lane, outcome) (dermbatch_open_outcomes{NS}))"
_LEFT_BY_LANE = "sum by (lane) (max by (namespace, lane) (dermbatch_images_left{NS}))"
_SERVERS = "sum(dermbatch:triton_servers:count{NS})"
_FINISHED = "sum(dermbatch:finished:rate5m{NS})"


def batches() -> Dashboard:
    """The dashboard."""
    return dashboard(
        "dermbatch-batches",
        "Dermbatch: batches",
        "Progress, time left and cost of what is open. Single batches: dermbatch status.",
        {"Open batches": _NOW, "Progress": _PROGRESS, "Cost": _COST},
        start="now-24h",
    ).with_variable(TextBoxVariable("gpu_price").label("Price of a GPU for an hour").default_value("2.50"))


_NOW = (
    figure(
        "Open", 'sum(max by (namespace) (dermbatch_open_batches{NS, state="open"}))', "short", "Batches at work."
    ),
    figure(
        "Paused",
        'sum(max by (namespace) (dermbatch_open_batches{NS, state="paused"}))',
        "short",
        "By hand, or for too many failures.",
        bad_from=1,
    ),
    figure(
        "Done",
        f"{_DONE} / ({_DONE} + {_LEFT})",
        "percentunit",
        "Of the images of all batches that are not closed.",
    ),
    figure("Images left", _LEFT, "short", "Paused batches' included."),
    figure(
        "Time left",
        "max(dermbatch:time_left_seconds{NS})",
        "s",
        "Of what is not paused, at the speed of five minutes.",
    ),
    figure(
        "Failed",
        'sum(max by (namespace, lane) (dermbatch_open_outcomes{NS, outcome="failed"}))',
        "short",
        "Of batches that are not closed.",
    ),
)

_PROGRESS = (
    lines(
        "Done, by lane",
        {"{{lane}}": f"{_DONE_BY_LANE} / ({_DONE_BY_LANE} + {_LEFT_BY_LANE})"},
        "percentunit",
        "Of batches that are not closed; falls when one is opened or closed.",
        most=1,
    ),
    lines("Images left", {"{{lane}}": _LEFT_BY_LANE}, "short", "Without an outcome.", stacked=True),
    lines(
        "Time left",
        {"{{namespace}}": "dermbatch:time_left_seconds{NS}"},
        "s",
        "At the speed of the last five minutes.",
    ),
    lines(
        "Images/s",
        {"{{outcome}}": 'sum by (outcome) (dermbatch:images:rate5m{NS, outcome=~"done|failed"})'},
        "ops",
        "Outcomes.",
        stacked=True,
    ),
    lines(
        "Batches",
        {"{{state}}": "sum by (state) (max by (namespace, state) (dermbatch_open_batches{NS}))"},
        "short",
        "Not closed.",
        stacked=True,
    ),
    lines(
        "Fed",
        {"into the queue": "sum(rate(dermbatch_dispatched_total{NS}[5m]))", "finished": _FINISHED},
        "ops",
        "What the dispatcher puts into the queue follows what is finished.",
    ),
)

_COST = (
    figure(
        "GPU-hours, 24 h",
        f"sum_over_time({_SERVERS}[24h:5m]) / 12",
        "short",
        "Hours of Triton servers, a GPU each, busy or not.",
        width=6,
    ),
    figure(
        "Cost, 24 h",
        f"sum_over_time({_SERVERS}[24h:5m]) / 12 * $gpu_price",
        "short",
        "The same, times the price that is given above.",
        width=6,
    ),
    figure(
        "Cost of 1,000 images",
        f"{_SERVERS} * $gpu_price / ({_FINISHED} * 3600) * 1000",
        "short",
        "At the speed of five minutes.",
        width=6,
    ),
    figure(
        "GPU-seconds an image",
        f"{_SERVERS} / {_FINISHED}",
        "s",
        "Of servers that are there, busy or not.",
        width=6,
    ),
    lines(
        "Cost of an hour", {"all": f"{_SERVERS} * $gpu_price"}, "short", "Of the servers that are there.", width=12
    ),
    lines(
        "Cost of 1,000 images",
        {"all": f"{_SERVERS} * $gpu_price / ({_FINISHED} * 3600) * 1000"},
        "short",
        "Rises where GPUs idle.",
        width=12,
    ),
)
