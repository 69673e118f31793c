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

    url: str = Field(default="redis://127.0.0.1:6379/0", repr=False, description="a password may be in it")
    shards: tuple[SecretStr, ...] = Field(
        default=(), description="URLs of all Redis servers that share the batches, `url` among them"
    )
    signing_key: SecretStr | None = Field(
        default=None,
        min_length=24,
        description="of messages; where none is set, they are neither signed nor checked",
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

    endpoint_url: str | None = None
    region: str | None = Field(default=None, description="the default chain of AWS clients where none is given")
    access_key_id: str | None = None
    secret_access_key: SecretStr | None = None
    bucket: str = Field(default="dermbatch", description="results and manifests")
    incoming_bucket: str = Field(default="incoming", description="images that commands upload")
    connections: int = Field(default=32, ge=1)
    connect_timeout: Seconds = 3
    read_timeout: Seconds = 30


class Engine(StrEnum):
    """What runs the models."""

    TRITON = "triton"
    ONNXRUNTIME = "onnxruntime"


class InferenceSettings(Section):
    """How workers run the models."""

    engine: Engine = Field(default=Engine.TRITON, description="onnxruntime: in the worker's own process")
    repository: Path | None = Field(
        default=None, description="Triton model repository that onnxruntime reads; the models that come along"
    )


class TritonSettings(Section):
    """NVIDIA Triton Inference Server, by gRPC."""

    url: str = "127.0.0.1:8001"
    timeout: Seconds = Field(default=120, description="of one request, after which it is cancelled")
    shared_memory_bytes: int = Field(
        default=64 * 1024 * 1024, ge=0, description="of each worker process, for tensors; 0: none"
    )
    shared_memory_prefix: str = Field(
        default="dermbatch-", pattern=r"^[\w.-]{1,100}$", description="of its names in /dev/shm"
    )
    key: SecretStr | None = Field(
        default=None, description="of a Triton with restricted protocols: sent as `triton-grpc-protocol-dermbatch`"
    )


class LedgerSettings(Section):
    """Leases, retries and the window."""

    lease: Seconds = Field(default=12, description="an image of a silent worker is put back after this")
    heartbeat: Seconds = 4
    queued_look: Seconds = Field(default=5, description="a message taken but not claimed by then is sent again")
    max_crashes: int = Field(default=3, ge=1, description="then the image is poison")
    max_transient: int = Field(default=10, ge=1, description="then a transient failure is final")
    first_pause: Seconds = 1
    longest_pause: Seconds = 60
    window_per_slot: int = Field(default=3, ge=1, description="queued and running images per worker slot and lane")
    window_seconds: Seconds = Field(
        default=1, description="what is finished in this time is the window where that is more"
    )
    window_most: int = Field(default=5000, ge=1, description="images of a lane in flight, however fast they go")
    bulk_share: float = Field(
        default=0.2, ge=0, lt=1, description="of what workers begin, while live images wait too"
    )
    leader_lease: Seconds = Field(
        default=5, description="an orchestrator that falls silent is replaced after this"
    )


class WorkerSettings(Section):
    """The Celery worker."""

    concurrency: int = Field(default=4, ge=1, description="images at a time in one worker")
    lanes: tuple[Lane, ...] = Field(default=("live", "bulk"), min_length=1, description="what it works on")
    grace: Seconds = Field(default=10, description="after SIGTERM, images not finished by then are given back")
    metrics_port: int = Field(default=9101, ge=0, description="0: none")
    metrics_address: str = "0.0.0.0"  # noqa: S104 - Prometheus scrapes from outside the pod
    max_pixels: int = Field(default=120_000_000, ge=1, description="larger images are refused unread")
    max_bytes: int = Field(default=512 * 1024 * 1024, ge=1)
    whole_pictures: bool = Field(
        default=False, description="keep purified pictures whole, not as what differs from their source"
    )
    check_files: bool = Field(default=False, description="read an image's earlier files, instead of listing them")
    local_sources: bool = Field(
        default=False, description="read images that jobs name as files of this machine; only run's own worker may"
    )


class ReadingSettings(Section):
    """What reading an untrusted file may take, in the processes that do so (docs/inputs.md)."""

    memory: int = Field(default=1 << 30, ge=1 << 20, description="bytes for any file")
    bytes_per_pixel: int = Field(default=48, ge=1, description="more for each pixel that the header claims")
    seconds: Seconds = Field(default=20, description="of a processor, for any file")
    seconds_per_megapixel: Seconds = Field(default=1, description="more for each million of pixels")
    patience: float = Field(default=30, ge=1, description="seconds on the clock for each of a processor's")

    @property
    def limits(self) -> Limits:
        """The same for who sets them."""
        return Limits(**self.model_dump())


class OrchestratorSettings(Section):
    """Planner, dispatcher and reconciler."""

    metrics_port: int = Field(default=9100, ge=0, description="0: none")
    metrics_address: str = "0.0.0.0"  # noqa: S104
    tick: Seconds = Field(default=0.2, description="pause between two looks of dispatcher and reconciler")
    look_for_batches: Seconds = Field(
        default=30, description="between two looks into the object store for batches that Redis does not know"
    )
    report_readers: int = Field(default=16, ge=1, description="records read at a time when a batch closes")


class StackSettings(Section):
    """The local stack."""

    least_free: int = Field(
        default=64 * 1024 * 1024, ge=0, description="bytes of free disk space below which a run ends in time"
    )
    store_port: int = Field(default=0, ge=0, le=65535, description="of the object store; any free one where 0")
    store_access_key_id: str | None = Field(
        default=None, min_length=1, description="of the object store; new ones at each start where none are given"
    )
    store_secret_access_key: SecretStr | None = Field(default=None, min_length=16)

    @model_validator(mode="after")
    def _whole_pair(self) -> Self:
        if (self.store_access_key_id is None) != (self.store_secret_access_key is None):
            raise ValueError("store_access_key_id and store_secret_access_key belong together")
        return self


class ArchiveSettings(Section):
    """Limits for archives: zip and tar."""

    max_members: int = 100_000
    max_bytes: int = Field(default=50 * 1024**3, description="of all members of one archive, unpacked")
    max_member_bytes: int = Field(default=512 * 1024**2, description="of one member, unpacked")
    max_ratio: float = Field(default=200, description="unpacked over packed size of one member, or of a tar.gz")
    max_depth: int = Field(default=3, ge=0, description="archives within archives; 0: none")


class AuditSettings(Section):
    """The audit log."""

    folder: str | None = Field(default=None, description="where files are appended to; -: standard output")


class PrivacySettings(Section):
    """De-identification: what only the programs that take images in know."""

    salt: SecretStr | None = Field(default=None, description="of pseudonyms: secret, and always the same")
    public_key: str | None = Field(default=None, description="that tables to re-identify with are sealed with")
    bucket: str | None = Field(default=None, description="of those tables; the result bucket where none is given")


class WatchSettings(Section):
    """Watching buckets for new objects."""

    every: Seconds = Field(default=30, description="between two listings of what is watched")
    queue: int = Field(default=100_000, ge=1, description="events held; stores are asked to send more later")
    listen_address: str = "127.0.0.1"
    listen_port: int = Field(default=0, ge=0, le=65535, description="of the webhook for notifications; 0: none")
    token: SecretStr | None = Field(default=None, min_length=16, description="that notifications must bring")
    metrics_port: int = Field(default=9102, ge=0, description="0: none")
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
        default=None, description="file of price lists, YAML; without it, reports have no costs"
    )
    signing_key: SecretStr | None = Field(default=None, description="of reports, Ed25519: 64 hexadecimal digits")


class TenantSettings(Section):
    """Who owns batches."""

    file: Path | None = Field(default=None, description="that declares them, YAML; without it any name is one")


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
    dicomweb: dict[str, DicomwebSettings] = Field(default={}, description="destinations of DICOM objects by name")
    fhir: dict[str, FhirSettings] = Field(default={}, description="FHIR servers by name")
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
        raise UsageError(f"the environment has unusable settings:  {'; '.join(wrong)}") from error
    except (SettingsError, RecursionError) as error:
        detail = str(error).partition(" from source")[0]
        raise UsageError(f"the environment has a setting that is not JSON:  {detail}") from error
