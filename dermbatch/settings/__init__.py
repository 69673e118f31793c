"""Settings: built once in a program's ``main`` from ``DERMBATCH_*`` variables, then handed in.

Nested fields take a double underscore: ``DERMBATCH_STORE__ENDPOINT_URL``. ``docs/settings.md`` lists them all.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from dermbatch.bounded.limits import Limits
from dermbatch.errors import UsageError
from dermbatch.records.asked import Lane, ModelChoice
from dermbatch.settings.desk import DeskSettings
from dermbatch.settings.destinations import DicomwebSettings, FhirSettings
from dermbatch.settings.section import Seconds, Section
from dermbatch.stages import Stage


class RedisSettings(Section):
    """The queue and the live counters."""

    url: str = Field(
        default="redis://127.0.0.1:6379/0",
        repr=False,
        description="URL of the queue and the ledger; it may contain a password",
    )
    shards: tuple[SecretStr, ...] = Field(
        default=(),
        description="URLs of all Redis servers that share the batches, in the same "
        "order for all programs; `url` is one of them",
    )
    signing_key: SecretStr | None = Field(
        default=None,
        min_length=24,
        description="key with which messages are signed; if unset, they are neither signed nor checked",
    )

    @model_validator(mode="after")
    def _one_of_the_shards(self) -> Self:
        if self.shards and self.url not in self.shard_urls:
            raise ValueError("url must be one of the shards, written in the same way")
        return self

    @property
    def shard_urls(self) -> tuple[str, ...]:
        """Where the shards are, in order; passwords may be in them."""
        return tuple(url.get_secret_value() for url in self.shards)


class StoreSettings(Section):
    """The S3-compatible object store."""

    endpoint_url: str | None = Field(default=None, description="address of the S3 server; if unset, AWS")
    region: str | None = Field(default=None, description="region; if unset, as boto3 finds it")
    access_key_id: str | None = Field(default=None, description="credentials; if unset, as boto3 finds them")
    secret_access_key: SecretStr | None = Field(default=None, description="credentials; never logged")
    bucket: str = Field(default="dermbatch", description="bucket for artifacts, manifests and records")
    incoming_bucket: str = Field(default="incoming", description="bucket into which commands upload images")
    connections: int = Field(default=32, ge=1, description="connections that one program keeps open")
    connect_timeout: Seconds = Field(default=3, description="seconds to connect")
    read_timeout: Seconds = Field(default=30, description="seconds without receiving a byte")


class Engine(StrEnum):
    """What runs the models."""

    TRITON = "triton"
    ONNXRUNTIME = "onnxruntime"


class InferenceSettings(Section):
    """How workers run the models."""

    engine: Engine = Field(
        default=Engine.TRITON,
        description="what runs the models: a Triton server, or ONNX Runtime in the worker's own process",
    )
    repository: Path | None = Field(
        default=None, description="Triton model repository that onnxruntime reads; if unset, the bundled one"
    )


class TritonSettings(Section):
    """NVIDIA Triton Inference Server, by gRPC."""

    url: str = Field(default="127.0.0.1:8001", description="host and gRPC port")
    timeout: Seconds = Field(
        default=120,
        description="seconds for one request, which is then cancelled, so that a stuck server holds no worker",
    )
    shared_memory_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=0,
        description="bytes of shared memory for tensors in each worker process; 0: none",
    )
    shared_memory_prefix: str = Field(
        default="dermbatch-", pattern=r"^[\w.-]{1,100}$", description="prefix of its names in /dev/shm"
    )
    key: SecretStr | None = Field(
        default=None,
        description="key for a Triton with restricted protocols, sent as `triton-grpc-protocol-dermbatch`",
    )


class LedgerSettings(Section):
    """Leases, retries and the window."""

    lease: Seconds = Field(
        default=12,
        description="seconds without a sign of life after which a worker's image is put back; three heartbeats",
    )
    heartbeat: Seconds = Field(
        default=4,
        description="seconds between two signs of life; less than half of the lease, so that one may be lost",
    )
    queued_look: Seconds = Field(
        default=5,
        description="seconds after which a queued image's message is sent again if "
        "it was taken but nobody claimed the image",
    )
    max_crashes: int = Field(default=3, ge=1, description="lost leases after which an image is poison")
    max_transient: int = Field(
        default=10, ge=1, description="tries after which a transient failure is final; 10 take about 4 minutes"
    )
    first_pause: Seconds = Field(
        default=1, description="seconds before the second try; the pause doubles with each try"
    )
    longest_pause: Seconds = Field(default=60, description="longest pause between two tries, in seconds")
    window_per_slot: int = Field(
        default=3,
        ge=1,
        description="images of a lane in flight for each worker slot, so that "
        "workers never wait for the dispatcher",
    )
    window_seconds: Seconds = Field(
        default=1, description="if images are fast, as many are in flight as are finished in this many seconds"
    )
    window_most: int = Field(
        default=5000,
        ge=1,
        description="most images of a lane in flight, however fast they are; limits Redis' memory",
    )
    bulk_share: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="share of bulk images among those that workers begin while "
        "live images also wait; 0: bulk waits",
    )
    leader_lease: Seconds = Field(
        default=5, description="seconds without a sign of life after which another orchestrator takes the lead"
    )


class WorkerSettings(Section):
    """The Celery worker."""

    concurrency: int = Field(default=4, ge=1, description="images that one worker processes at the same time")
    lanes: tuple[Lane, ...] = Field(
        default=("live", "bulk"),
        min_length=1,
        description="lanes whose images it takes; with both, live comes first",
    )
    grace: Seconds = Field(
        default=10,
        description="seconds after SIGTERM in which images that were begun may "
        "be finished; the rest is given back",
    )
    metrics_port: int = Field(default=9101, ge=0, description="port of the metrics; 0: none")
    metrics_address: str = "0.0.0.0"  # noqa: S104 - Prometheus scrapes from outside the pod
    max_pixels: int = Field(
        default=120_000_000,
        ge=1,
        description="most pixels of an image; larger ones are refused before they are decoded",
    )
    max_bytes: int = Field(
        default=512 * 1024 * 1024, ge=1, description="most bytes of an object; larger ones are refused unread"
    )
    whole_pictures: bool = Field(
        default=False, description="store purified pictures whole, not as the difference from their source"
    )
    check_files: bool = Field(
        default=False,
        description="read the files made earlier for an image and compare them with "
        "their digests, instead of listing them",
    )
    local_sources: bool = Field(
        default=False,
        description="let jobs name files of the worker's own machine; only for the worker that `run` starts",
    )


class ReadingSettings(Section):
    """What reading an untrusted file may take, in the processes that do so (docs/inputs.md)."""

    memory: int = Field(default=1 << 30, ge=1 << 20, description="bytes of memory for any file")
    bytes_per_pixel: int = Field(
        default=48, ge=1, description="additional bytes for each pixel that the header claims"
    )
    seconds: Seconds = Field(default=20, description="seconds of processor time for any file")
    seconds_per_megapixel: Seconds = Field(
        default=1, description="additional seconds of processor time for each million pixels"
    )
    patience: float = Field(
        default=30,
        ge=1,
        description="seconds of real time for each second of processor time, so "
        "that busy machines do not fail files",
    )

    @property
    def limits(self) -> Limits:
        """The same for who sets them."""
        return Limits(**self.model_dump())


class OrchestratorSettings(Section):
    """Planner, dispatcher and reconciler."""

    metrics_port: int = Field(default=9100, ge=0, description="port of the metrics; 0: none")
    metrics_address: str = "0.0.0.0"  # noqa: S104
    tick: Seconds = Field(default=0.2, description="seconds between two rounds of dispatcher and reconciler")
    look_for_batches: Seconds = Field(
        default=30,
        description="seconds between two searches of the object store for batches that Redis does not know",
    )
    report_readers: int = Field(default=16, ge=1, description="records read at the same time when a batch closes")


class StackSettings(Section):
    """The local stack."""

    least_free: int = Field(
        default=64 * 1024 * 1024,
        ge=0,
        description="bytes of free disk space below which a run ends, while it can still do so properly",
    )
    store_port: int = Field(default=0, ge=0, le=65535, description="port of the object store; 0: any free one")
    store_access_key_id: str | None = Field(
        default=None,
        min_length=1,
        description="access key of the object store; if unset, a new pair at each start",
    )
    store_secret_access_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="secret key of the object store, given together with the access key",
    )

    @model_validator(mode="after")
    def _whole_pair(self) -> Self:
        if (self.store_access_key_id is None) != (self.store_secret_access_key is None):
            raise ValueError("store_access_key_id and store_secret_access_key belong together")
        return self


class ArchiveSettings(Section):
    """Limits for archives: zip and tar."""

    max_members: int = Field(
        default=100_000, description="most members of one archive, including those of nested archives"
    )
    max_bytes: int = Field(
        default=50 * 1024**3, description="most unpacked bytes of one archive, including nested archives"
    )
    max_member_bytes: int = Field(default=512 * 1024**2, description="most unpacked bytes of one member")
    max_ratio: float = Field(
        default=200,
        description="largest ratio of unpacked to packed size of one member or of a "
        "whole tar.gz, so that bombs are refused",
    )
    max_depth: int = Field(
        default=3, ge=0, description="how many levels of archives may be nested in an archive; 0: none"
    )


class AuditSettings(Section):
    """The audit log."""

    folder: str | None = Field(
        default=None,
        description="folder whose files the audit log is appended to; -: standard output; if unset, no audit log",
    )


class PrivacySettings(Section):
    """De-identification: what only the programs that take images in know."""

    salt: SecretStr | None = Field(
        default=None, description="secret from which pseudonyms are made; keep the same one always"
    )
    public_key: str | None = Field(default=None, description="key with which re-identification tables are sealed")
    bucket: str | None = Field(default=None, description="bucket for these tables; if unset, the one for results")


class WatchSettings(Section):
    """Watching buckets for new objects."""

    every: Seconds = Field(default=30, description="seconds between two listings of what is watched")
    queue: int = Field(
        default=100_000,
        ge=1,
        description="most notifications held; beyond that, stores are asked to send them again later",
    )
    listen_address: str = Field(
        default="127.0.0.1", description="address on which the webhook for notifications listens"
    )
    listen_port: int = Field(default=0, ge=0, le=65535, description="port of the webhook; 0: none")
    token: SecretStr | None = Field(default=None, min_length=16, description="token that notifications must bring")
    metrics_port: int = Field(default=9102, ge=0, description="port of the metrics; 0: none")
    metrics_address: str = "0.0.0.0"  # noqa: S104

    @field_validator("token")
    @classmethod
    def _can_be_sent(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not re.fullmatch(r"[!-~]+", token.get_secret_value()):
            raise ValueError("use printable ASCII characters without spaces")
        return token


class MeteringSettings(Section):
    """What was used, and what it costs."""

    prices: Path | None = Field(
        default=None, description="YAML file of price lists; if unset, reports have no costs"
    )
    signing_key: SecretStr | None = Field(
        default=None, description="Ed25519 key with which reports are signed, as 64 hexadecimal digits"
    )


class TenantSettings(Section):
    """Who owns batches."""

    file: Path | None = Field(
        default=None, description="YAML file that declares the tenants; if unset, any name is a tenant"
    )


DEFAULT_MODELS = {
    Stage.PURIFY: ModelChoice(name="purify_unet_int8"),
    Stage.SEGMENT: ModelChoice(name="segment_lite"),
    Stage.ENHANCE: ModelChoice(name="enhance_espcn_int8"),
    Stage.CLASSIFY: ModelChoice(name="classify_lite"),
}


class Settings(BaseSettings):
    """Everything; each component reads its part."""

    model_config = SettingsConfigDict(env_prefix="DERMBATCH_", env_nested_delimiter="__", extra="forbid")

    redis: RedisSettings = RedisSettings()
    store: StoreSettings = StoreSettings()
    inference: InferenceSettings = InferenceSettings()
    triton: TritonSettings = TritonSettings()
    ledger: LedgerSettings = LedgerSettings()
    worker: WorkerSettings = WorkerSettings()
    reading: ReadingSettings = ReadingSettings()
    orchestrator: OrchestratorSettings = OrchestratorSettings()
    archive: ArchiveSettings = ArchiveSettings()
    watch: WatchSettings = WatchSettings()
    stack: StackSettings = StackSettings()
    desk: DeskSettings = DeskSettings()
    privacy: PrivacySettings = PrivacySettings()
    audit: AuditSettings = AuditSettings()
    metering: MeteringSettings = MeteringSettings()
    tenants: TenantSettings = TenantSettings()
    dicomweb: dict[str, DicomwebSettings] = Field(
        default={}, description="PACS to which DICOM objects are sent, by name"
    )
    fhir: dict[str, FhirSettings] = Field(
        default={}, description="FHIR servers to which results are sent, by name"
    )
    models: dict[Stage, ModelChoice] = DEFAULT_MODELS
    log_level: str = "INFO"

    @field_validator("models")
    @classmethod
    def _others_stay(cls, named: dict[Stage, ModelChoice]) -> dict[Stage, ModelChoice]:
        return {**DEFAULT_MODELS, **named}


def load() -> Settings:
    """The settings from the environment.

    Raises:
        UsageError: If a variable has an invalid value; says so in one sentence.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = (f"DERMBATCH_{'__'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors())
        raise UsageError(f"the environment has unusable settings: {'; '.join(wrong)}") from error
    except (SettingsError, RecursionError) as error:
        detail = str(error).partition(" from source")[0]
        raise UsageError(f"the environment has a setting that is not JSON: {detail}") from error
