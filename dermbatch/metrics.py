"""Prometheus metrics that both sides feed. ``docs/metrics.md`` lists them; a test keeps the two equal.

Labels are bounded: stages, outcomes, reasons, models, tenants. Never an image, a batch or anything of a patient.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

IMAGES = Counter("dermbatch_images", "Images by outcome: done, failed, retried, crashed.", ["outcome"])
FAILURES = Counter("dermbatch_failures", "Images that failed for good, by reason code.", ["reason"])
GIVEN_UP = (
    "poison",
    "internal_error",
    "inference_unavailable",
    "store_unavailable",
    "pacs_unavailable",
    "audit_unavailable",
    "reader_killed",
)
"""Reasons for which a sound image may have failed: dead letters, which an operator has tried again."""

# There from the start, at zero: of a series that begins with one, Prometheus can tell no increase.
for _reason in GIVEN_UP:
    FAILURES.labels(_reason)
for _outcome in ("done", "failed", "retried", "crashed"):
    IMAGES.labels(_outcome)

IMAGE_SECONDS = Histogram(
    "dermbatch_image_seconds", "Time a worker spent on one image, from claim to record.", buckets=_SECONDS
)
WAITING_SECONDS = Histogram(
    "dermbatch_waiting_seconds",
    "Time an image was in the queue before a worker first took it.",
    ["lane"],
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800),
)
STAGE_SECONDS = Histogram(
    "dermbatch_stage_seconds", "Time of one stage of one image.", ["stage"], buckets=_SECONDS
)
CACHE_HITS = Counter("dermbatch_cache_hits", "Stages that were not run: their artifacts were there.", ["stage"])
TRITON_REQUEST_SECONDS = Histogram(
    "dermbatch_triton_request_seconds",
    "Time of one request to Triton, as the worker sees it.",
    ["model", "version"],
    buckets=_SECONDS,
)
TRITON_ERRORS = Counter("dermbatch_triton_errors", "Failed requests to Triton.", ["model", "reason"])
BYTES_READ = Counter("dermbatch_bytes_read", "Bytes read from the object store.")
BYTES_WRITTEN = Counter("dermbatch_bytes_written", "Bytes written to the object store.")
STORE_REQUESTS = Counter("dermbatch_store_requests", "Requests to the object store.", ["operation"])
STORE_ERRORS = Counter("dermbatch_store_errors", "Failed requests to the object store.", ["operation", "reason"])
PACS_OBJECTS = Counter(
    "dermbatch_pacs_objects", "DICOM objects sent: stored, refused, unavailable.", ["destination", "outcome"]
)
LEASE_EXPIRIES = Counter("dermbatch_lease_expiries", "Images put back because their worker fell silent.")
DISPATCHED = Counter("dermbatch_dispatched", "Messages put into the queue.")
NOTIFICATIONS = Counter("dermbatch_notifications", "Requests to the webhook of watch, by outcome.", ["outcome"])
NOTIFIED_OBJECTS = Counter("dermbatch_notified_objects", "Objects that notifications announced.")
CANARY_IMAGES = Counter(
    "dermbatch_canary_images", "Images that a canary's models were tried on: agree, differ, failed.", ["outcome"]
)
CANARY_DICE = Histogram(
    "dermbatch_canary_dice",
    "Agreement of a canary's mask with the result's, 0 to 1.",
    buckets=(0.25, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1),
)
WATCH_OBJECTS = Counter(
    "dermbatch_watch_objects", "Objects that watching was done with: taken, no_image.", ["outcome"]
)
WATCH_WAITING_OBJECTS = Gauge(
    "dermbatch_watch_waiting_objects", "Objects that the last listing found and that are not ready."
)
WATCH_OLDEST_WAITING_SECONDS = Gauge(
    "dermbatch_watch_oldest_waiting_seconds", "How long ago the oldest of them was written."
)
WATCH_HELD_OBJECTS = Gauge(
    "dermbatch_watch_held_objects",
    "Objects that the last listing found, and that wait for their tenant's quota.",
    ["tenant"],
)
WATCH_LISTING_SECONDS = Histogram(
    "dermbatch_watch_listing_seconds",
    "Time of one listing of all that is watched, taking in what is new among it.",
    buckets=(0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800),
)
WATCH_LEADER = Gauge("dermbatch_watch_leader", "Whether this watcher leads: 1 or 0.")
LESION_SHARE = Histogram(
    "dermbatch_lesion_share",
    "Share of the image that is lesion, 0 to 1; 0 where there is none.",
    ["model", "version"],
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1),
)
CLASSIFIED = Counter(
    "dermbatch_classified_images", "Images by their most probable class.", ["model", "version", "label"]
)
DESK_REQUESTS = Counter(
    "dermbatch_desk_requests",
    "Requests to the desk: pages, api, pictures, exports, events, static; by class of status: 2xx, 4xx ...",
    ["kind", "status"],
)
DESK_SECONDS = Histogram(
    "dermbatch_desk_request_seconds",
    "Time until an answer of the desk begins, by kind as above.",
    ["kind"],
    buckets=_SECONDS,
)
OBJECTIVE_IMAGES = Counter(
    "dermbatch_objective_images",
    "Live images that their tenant has an objective for, by how long they waited: in_time, late.",
    ["tenant", "outcome"],
)
DEADLINES = Counter(
    "dermbatch_deadlines", "Batches with a deadline that closed: met, missed.", ["tenant", "outcome"]
)
USAGE_IMAGES = Counter("dermbatch_usage_images", "Images with a result, by who is billed.", ["tenant"])
USAGE_STAGE_SECONDS = Counter(
    "dermbatch_usage_stage_seconds", "Seconds of stages that results are billed for.", ["tenant", "stage"]
)
USAGE_MODEL_SECONDS = Counter(
    "dermbatch_usage_model_seconds",
    "Of them, seconds of models, by device: cpu, gpu, unknown.",
    ["tenant", "device"],
)
USAGE_BYTES = Counter(
    "dermbatch_usage_bytes", "Bytes that results are billed for: read, stored.", ["tenant", "kind"]
)
LEADER = Gauge("dermbatch_leader", "Whether this orchestrator leads: 1 or 0.")
