"""The dashboard of who answers for the models: speed, batching, versions, and whether what they find shifts."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana.panels import dashboard, lines

_REQUEST = "sum by (le, model, version) (rate(dermbatch_triton_request_seconds_bucket{NS}[$__rate_interval]))"
_ANSWERED = "sum by (model, version) (rate(nv_inference_request_success{NS}[5m]))"
_QUEUED = "sum by (model, version) (rate(nv_inference_queue_duration_us{NS}[5m]))"
_COMPUTED = "sum by (model, version) (rate(nv_inference_compute_infer_duration_us{NS}[5m]))"
_INFERENCES = "sum by (model, version) (rate(nv_inference_count{NS}[5m]))"
_EXECUTIONS = "sum by (model, version) (rate(nv_inference_exec_count{NS}[5m]))"
_SHARE = "sum by (le, model, version) (rate(dermbatch_lesion_share_bucket{NS}[1d]))"
_SHARE_BEFORE = "sum by (le, model, version) (rate(dermbatch_lesion_share_bucket{NS}[1d] offset 1w))"
_CLASSES = "sum by (model, version, label) (rate(dermbatch_classified_images_total{NS}[1d]))"
_CLASSES_BEFORE = "sum by (model, version, label) (rate(dermbatch_classified_images_total{NS}[1d] offset 1w))"
_ALL_CLASSES = "sum by (model, version) (rate(dermbatch_classified_images_total{NS}[1d]))"
_ALL_CLASSES_BEFORE = "sum by (model, version) (rate(dermbatch_classified_images_total{NS}[1d] offset 1w))"
_OF_MODEL = "/ on (model, version) group_left ()"
_MIX = f"{_CLASSES} {_OF_MODEL} {_ALL_CLASSES}"
_MIX_BEFORE = f"{_CLASSES_BEFORE} {_OF_MODEL} {_ALL_CLASSES_BEFORE}"
_AGREE = 'sum(rate(dermbatch_canary_images_total{NS, outcome="agree"}[1h]))'
_JUDGED = 'sum(rate(dermbatch_canary_images_total{NS, outcome=~"agree|differ"}[1h]))'


def models() -> Dashboard:
    """The dashboard."""
    return dashboard(
        "dermbatch-models",
        "Dermbatch: models",
        "How fast models answer, which versions are at work, and whether what they find shifts.",
        {"Speed": _SPEED, "Batching and versions": _BATCHING, "Drift": _DRIFT, "Canary": _CANARY},
        start="now-24h",
    )


_SPEED = (
    lines(
        "Requests, p50",
        {"{{model}} v{{version}}": f"histogram_quantile(0.5, {_REQUEST})"},
        "s",
        "As workers see them: network and queues included.",
    ),
    lines(
        "Requests, p99",
        {"{{model}} v{{version}}": f"histogram_quantile(0.99, {_REQUEST})"},
        "s",
        "As workers see them: network and queues included.",
    ),
    lines(
        "Triton's queues",
        {"{{model}} v{{version}}": f"{_QUEUED} / 1e6 / {_ANSWERED}"},
        "s",
        "Mean time of a request before a model takes it.",
    ),
    lines(
        "Computing",
        {"{{model}} v{{version}}": f"{_COMPUTED} / 1e6 / {_ANSWERED}"},
        "s",
        "Mean time of a request in the model; that of a whole batch counts for each request in it.",
    ),
    lines(
        "Waiting requests",
        {"{{model}} v{{version}}": "sum by (model, version) (nv_inference_pending_request_count{NS})"},
        "short",
        "In Triton's queues at this moment.",
    ),
    lines(
        "Failed requests",
        {"{{model}} {{reason}}": "sum by (model, reason) (rate(nv_inference_request_failure{NS}[5m]))"},
        "reqps",
        "CANCELED: the worker gave up or was stopped.",
    ),
)

_BATCHING = (
    lines(
        "Batch fill",
        {"{{model}} v{{version}}": f"{_INFERENCES} / {_EXECUTIONS}"},
        "short",
        "Inferences of one execution. Near 1 on a busy GPU: a longer max_queue_delay_microseconds fills batches.",
    ),
    lines("Versions at work", {"{{model}} v{{version}}": _ANSWERED}, "reqps", "Requests a second.", stacked=True),
    lines(
        "GPUs",
        {"{{gpu_uuid}}": "avg by (gpu_uuid) (nv_gpu_utilization{NS})"},
        "percentunit",
        "Share of the time in which they compute.",
        most=1,
    ),
)

_DRIFT = (
    lines(
        "Lesion size, median",
        {
            "{{model}} v{{version}}": f"histogram_quantile(0.5, {_SHARE})",
            "{{model}} v{{version}}, a week ago": f"histogram_quantile(0.5, {_SHARE_BEFORE})",
        },
        "percentunit",
        "Share of the image, over a day. A shift without a new version: the images have changed.",
        width=12,
    ),
    lines(
        "Lesion size, p10 and p90",
        {
            "p10 {{model}} v{{version}}": f"histogram_quantile(0.1, {_SHARE})",
            "p90 {{model}} v{{version}}": f"histogram_quantile(0.9, {_SHARE})",
        },
        "percentunit",
        "Share of the image, over a day.",
        width=12,
    ),
    lines(
        "Class mix",
        {"{{label}}, {{model}} v{{version}}": _MIX},
        "percentunit",
        "Most probable classes of a day.",
        stacked=True,
        most=1,
        width=12,
    ),
    lines(
        "Class mix against a week ago",
        {"{{label}}, {{model}} v{{version}}": f"abs({_MIX} - {_MIX_BEFORE})"},
        "percentunit",
        "How far each class' share has moved.",
        width=12,
    ),
)

_CANARY = (
    lines(
        "Agreement of the canary",
        {"agrees": f"{_AGREE} / {_JUDGED}"},
        "percentunit",
        "Share of images with the same class and masks of Dice 0.9 or more.",
        most=1,
    ),
    lines(
        "Dice of the canary's masks",
        {
            "p10": "histogram_quantile(0.1, sum by (le) (rate(dermbatch_canary_dice_bucket{NS}[1h])))",
            "p50": "histogram_quantile(0.5, sum by (le) (rate(dermbatch_canary_dice_bucket{NS}[1h])))",
        },
        "none",
        "Against the result's masks.",
        most=1,
    ),
    lines(
        "Images of the canary",
        {"{{outcome}}": "sum by (outcome) (rate(dermbatch_canary_images_total{NS}[1h]))"},
        "ops",
        "failed: the canary's models did; the image itself has its result.",
        stacked=True,
    ),
)
