"""The dashboard of who keeps it running: throughput, waiting, stages, failures, parts."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.panels import dashboard, figure, lines

_WAITED = 'sum by (le) (rate(dermbatch_waiting_seconds_bucket{NS, lane="live"}[$__rate_interval]))'
_STAGE = "sum by (le, stage) (rate(dermbatch_stage_seconds_bucket{NS}[$__rate_interval]))"
_IMAGE = "sum by (le) (rate(dermbatch_image_seconds_bucket{NS}[$__rate_interval]))"
_WORK = "sum by (lane, state) (max by (namespace, lane, state) (dermbatch_work_images{NS}))"
_NOT_SENT = 'sum by (destination, outcome) (rate(dermbatch_pacs_objects_total{NS, outcome!="stored"}[5m]))'
_REAL = 'reason!~"NoSuchKey|NoSuchBucket|NotFound|404|ConditionalRequestConflict|409"'


def operations() -> Dashboard:
    """The dashboard."""
    return dashboard(
        "dermbatch-operations",
        "Dermbatch: operations",
        "Whether it runs, how fast, how long images wait, and what fails.",
        {
            "Now": _NOW,
            "Throughput": _THROUGHPUT,
            "Waiting": _WAITING,
            "Stages": _STAGES,
            "Failures": _FAILURES,
            "Parts": _PARTS,
        },
        start="now-6h",
    )


_NOW = (
    figure(
        "Alerts",
        'count(ALERTS{NS, alertname=~"Dermbatch.*", alertstate="firing"}) or vector(0)',
        "short",
        "Alerts that fire; each has a section in docs/runbook.md.",
        bad_from=1,
    ),
    figure("Images/s", "sum(dermbatch:finished:rate5m{NS})", "short", "Outcomes of the last five minutes."),
    figure(
        "Work", "sum(dermbatch:work:sum{NS})", "short", "Images that wait or are in flight, paused batches' apart."
    ),
    figure("Time left", "max(dermbatch:time_left_seconds{NS})", "s", "At the speed of the last five minutes."),
    figure(
        "Live wait",
        'max(dermbatch_oldest_waiting_seconds{NS, lane="live"})',
        "s",
        "How long the oldest live image in the queue has waited for a worker.",
        bad_from=30,
    ),
    figure(
        "Failures",
        "max(dermbatch:failures:ratio_rate15m{NS})",
        "percentunit",
        "Share of the outcomes of 15 minutes.",
        bad_from=0.05,
    ),
)

_THROUGHPUT = (
    lines(
        "Images by outcome",
        {"{{outcome}}": "sum by (outcome) (dermbatch:images:rate5m{NS})"},
        "ops",
        "Images a second. retried: put off after a transient failure; crashed: their worker fell silent.",
        width=12,
    ),
    lines(
        "Work",
        {"{{lane}} {{state}}": _WORK},
        "short",
        "What scaling goes by: images not in the queue yet, and in flight by state.",
        stacked=True,
        width=12,
    ),
)

_WAITING = (
    lines(
        "Waiting of live images",
        {"p50": f"histogram_quantile(0.5, {_WAITED})", "p99": f"histogram_quantile(0.99, {_WAITED})"},
        "s",
        "From the queue to the first worker. What is not in the queue yet shows in the expected wait.",
    ),
    lines(
        "Late live images",
        {
            "5 min": "max(dermbatch:live_late:ratio_rate5m{NS})",
            "1 h": "max(dermbatch:live_late:ratio_rate1h{NS})",
            "6 h": "max(dermbatch:live_late:ratio_rate6h{NS})",
        },
        "percentunit",
        "Share that waited for more than 30 s; the objective is 1 % of 28 days.",
    ),
    lines(
        "Expected wait of a live image",
        {
            "expected": "max(dermbatch:live_expected_wait_seconds{NS})",
            "oldest, {{lane}}": "max by (lane) (dermbatch_oldest_waiting_seconds{NS})",
        },
        "s",
        "What waits, over what is taken (Little's law); and the oldest image in the queue.",
    ),
)

_STAGES = (
    lines("Stages, p50", {"{{stage}}": f"histogram_quantile(0.5, {_STAGE})"}, "s", "Triton's queues included."),
    lines("Stages, p95", {"{{stage}}": f"histogram_quantile(0.95, {_STAGE})"}, "s", "Triton's queues included."),
    lines(
        "Whole images",
        {"p50": f"histogram_quantile(0.5, {_IMAGE})", "p95": f"histogram_quantile(0.95, {_IMAGE})"},
        "s",
        "From claim to result record, of images that succeeded.",
    ),
    lines(
        "Stages not run again",
        {"{{stage}}": "sum by (stage) (rate(dermbatch_cache_hits_total{NS}[$__rate_interval]))"},
        "ops",
        "What was found, because it had been computed before.",
        width=24,
    ),
)

_FAILURES = (
    lines(
        "Failures by reason",
        {"{{reason}}": "sum by (reason) (rate(dermbatch_failures_total{NS}[5m]))"},
        "ops",
        "docs/failures.md has every reason.",
    ),
    lines(
        "Repeats",
        {
            "lease expired": "sum(rate(dermbatch_lease_expiries_total{NS}[5m]))",
            "put off": 'sum(rate(dermbatch_images_total{NS, outcome="retried"}[5m]))',
        },
        "ops",
        "Images run again: their worker fell silent, or something they need was away.",
    ),
    lines(
        "Errors of servers",
        {
            "store {{operation}} {{reason}}": "sum by (operation, reason) (rate(dermbatch_store_errors_total{NS, "
            + _REAL
            + "}[5m]))",
            "triton {{model}} {{reason}}": "sum by (model, reason) (rate(dermbatch_triton_errors_total{NS}[5m]))",
            "pacs {{destination}} {{outcome}}": _NOT_SENT,
        },
        "ops",
        "Requests that failed, as workers and orchestrator see them.",
    ),
)

_PARTS = (
    lines(
        "Who is there",
        {
            "worker slots": "max(dermbatch_worker_slots{NS})",
            "Triton servers": "sum(dermbatch:triton_servers:count{NS})",
            "leaders": "max by (namespace) (dermbatch_leader{NS})",
        },
        "short",
        "Images that workers can process at a time, servers that answer, and whether an orchestrator leads.",
    ),
    lines(
        "GPUs",
        {
            "compute": "max(dermbatch:gpu_utilisation:avg{NS})",
            "memory": "avg(nv_gpu_memory_used_bytes{NS} / nv_gpu_memory_total_bytes{NS})",
        },
        "percentunit",
        "Share of the time in which they compute, and of their memory.",
        most=1,
    ),
    lines(
        "Redis' memory",
        {
            "used": 'max(dermbatch_redis_memory_bytes{NS, kind="used"})',
            "limit": 'max(dermbatch_redis_memory_bytes{NS, kind="limit"})',
        },
        "bytes",
        "Full, it takes no new work. 0: no limit.",
    ),
    lines(
        "Object store",
        {
            "read": "sum(rate(dermbatch_bytes_read_total{NS}[5m]))",
            "written": "sum(rate(dermbatch_bytes_written_total{NS}[5m]))",
        },
        "Bps",
        "Bytes of objects.",
    ),
    lines(
        "Requests to the object store",
        {"{{operation}}": "sum by (operation) (rate(dermbatch_store_requests_total{NS}[5m]))"},
        "reqps",
        "By operation.",
    ),
    lines(
        "Watched buckets",
        {
            "{{outcome}}": "sum by (outcome) (rate(dermbatch_watch_objects_total{NS}[5m])) * 60",
            "not ready": "max(dermbatch_watch_waiting_objects{NS})",
        },
        "short",
        "Objects a minute that were taken in, and those that wait to become ready.",
    ),
    lines(
        "Requests to the desk",
        {
            "{{kind}}": "sum by (kind) (rate(dermbatch_desk_requests_total{NS}[5m]))",
            "failed": 'sum(rate(dermbatch_desk_requests_total{NS, status="5xx"}[5m]))',
        },
        "reqps",
        "By what is asked for, and those that failed by its own fault.",
    ),
    lines(
        "The desk's answers",
        {
            "{{kind}}, 99 %": (
                "histogram_quantile(0.99, sum by (kind, le) (rate(dermbatch_desk_request_seconds_bucket{NS}[5m])))"
            )
        },
        "s",
        "Seconds that all but one in a hundred answers take to begin.",
    ),
)
