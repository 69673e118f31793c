"""Where objects lie: the keys of the result bucket. Users see them, so they stay stable.

::

    images/<sha256>/<stage>/<stage key>/{purified.png, mask.png, enhanced.png}
    images/known/<content>.json
    tenants/<tenant>/{images/..., similar/facts.csv, quota.json}
    batches/<batch>/batch.json, manifest/<part>.jsonl, results/<part>/<n>.json, failed/<part>/<n>.json,
                    plan.json, report.html, report.sig.json, results.parquet, summary.json, comparison.html,
                    comparison.parquet,
                    results.parquet/{part-*.parquet, _manifest.json}, dicom/<part>/<n>-{seg,sr,enhanced}.dcm
    gathered/<batch>/
    usage/<batch>/<moment>/{<first>-<digest>.jsonl, _manifest.json}
    open/<batch>.json
    canaries/<name>/canary.json, results/<batch>/<index>.json
    canaries/_running.json
    privacy/<batch>/<first>.sealed
    reviews/<batch>/<part>/<n>/<reader>/<version>.json
    reviews/_plans/<name>.json
    reviews/_queues/<name>.json
    reviews/_opened/<batch>/<part>/<n>/<reader>.json
    desk/keys/<id>.json
    desk/people/<digest of the name>.json
    desk/sets/<digest of the person>/<name>.json
    similar/<model>/{index.json, trained-*.faiss}, shards/*.parquet
    similar/{facts.csv, forbidden/<sha256>.json}
    supports/<name>/versions/<version>.json, files/<sha256>.png     (a tenant's: <tenant>.<name>)

In a folder of results, the small files that records hold inline have their own place too: ``stage.json``,
``embedding.npy``, ``saliency.png``, ``border.png`` beside the artifacts, and
``images/<sha256>/preview/<key>/preview.jpg``.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

from dermbatch.errors import UsageError
from dermbatch.records.asked import NAME
from dermbatch.records.outcome import DicomKind
from dermbatch.stages import Stage

PART_SIZE = 1000
"""Number of images in one part of a manifest."""

OPEN = "open/"
"""Prefix of the controls of open batches: one listing finds all unfinished work."""

BATCHES = "batches/"
"""Prefix of everything of every batch."""

CANARIES = "canaries/"
"""Prefix of everything of every canary."""

RUNNING_CANARY = f"{CANARIES}_running.json"
"""Key of the record of the canary that is running; no canary's name begins with ``_``."""

WATCHED = "watch-"
"""How the names of batches made by watching begin."""

_MD5 = re.compile(r"[0-9a-f]{32}")

_DICOM_SUFFIXES = {"segmentation": "seg", "report": "sr", "enhanced": "enhanced"}


def check_batch_name(name: str, what: str = "batch") -> str:
    """Return ``name``, of a batch or anything else, if it can be part of keys, file names and metric queries.

    Raises:
        UsageError: If it is not 1 to 100 of ``a-z 0-9 . _ -``, starting and ending with a letter or digit.
    """
    if NAME.fullmatch(name) is None or ".." in name:
        raise UsageError(
            f"{what} name {name!r} cannot be used: take 1 to 100 of a-z, 0-9, '.', '_' and '-', "
            "starting and ending with a letter or digit"
        )
    return name


def owned(name: str, tenant: str) -> str:
    """The name of a tenant's batch: the tenant's name, a dot (which no tenant's name has), and a batch's name."""
    return name if name.startswith(f"{tenant}.") else f"{tenant}.{name}"


def is_owned(batch: str, tenant: str) -> bool:
    """Whether a batch is a tenant's; no store is asked, so the answer does not reveal whether it exists."""
    return batch.removeprefix(WATCHED).startswith(f"{tenant}.")


def owned_batches(tenant: str) -> tuple[str, str]:
    """How the names of a tenant's batches begin."""
    return f"{tenant}.", f"{WATCHED}{tenant}."


def part_of(index: int) -> tuple[str, int]:
    """The part (as written in keys) of the image with this index in its batch, and its position there."""
    return f"{index // PART_SIZE:06d}", index % PART_SIZE


def index_of(key: str) -> int | None:
    """The index that a record's key, ``.../<part>/<n>.json``, stands for; none if it is not such a key."""
    part, _, name = key.rpartition("/")
    part = part.rpartition("/")[2]
    number = name.removesuffix(".json")
    if not (part.isdecimal() and number.isdecimal() and name.endswith(".json")):
        return None
    index = int(part) * PART_SIZE + int(number)
    return index if part_of(index) == (part, int(number)) else None


def identity(sha256: str, frame: int | None) -> str:
    """What identifies an image: the digest of its file or, for one frame of several, of file and frame number.

    Args:
        sha256: Digest of the file.
        frame: Which frame, from 1; none if the file is a single image.
    """
    return sha256 if frame is None else hashlib.sha256(f"{sha256}#frame={frame}".encode()).hexdigest()


def content(sha256: str, frame: int | None = None) -> str:
    """An image's content as named in keys: 32 hexadecimal digits of its :func:`identity`."""
    return identity(sha256, frame)[:32]


def fingerprint(source: str, etag: str | None, size: int | None, frame: int | None = None) -> str | None:
    """What makes images look like copies of each other before they are read; none if the store gave no ETag.

    A hint, never a proof: some stores have constant ETags, or ETags that are not digests. No result is shared
    because of it. An ETag that looks like an MD5 digest is taken to describe the content alone. Any other (of a
    multipart or encrypted upload) describes this object only.
    """
    if etag is None or size is None:
        return None
    identity = f"{etag}:{size}" if _MD5.fullmatch(etag) else f"{etag}:{size}:{source}"
    identity += f"#frame={frame}" if frame is not None else ""
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def images(pool: str | None) -> str:
    """Prefix of what was made from images, for those who share it: one tenant, or everybody without a tenant."""
    return "images/" if pool is None else f"tenants/{pool}/images/"


def tenant_quota(tenant: str) -> str:
    """Key of the record of what is reserved from a tenant's quota."""
    return f"tenants/{tenant}/quota.json"


def pool_of(key: str | None) -> str | None:
    """Whose :func:`images` a key lies in; for a record, take its preview's key, which old records may lack."""
    tenants, _, rest = (key or "").partition("/")
    pool, _, rest = rest.partition("/")
    return pool if tenants == "tenants" and rest.startswith("images/") else None


def all_known(pool: str | None = None) -> str:
    """Prefix of what is known about images."""
    return f"{images(pool)}known/"


def known(content: str, pool: str | None = None) -> str:
    """Key of what is known about the image with this :func:`content`."""
    return f"{all_known(pool)}{content}.json"


def known_of(identity: str, pool: str | None = None) -> str:
    """The same for the image with this :func:`identity`, which is the ``sha256`` of records."""
    return known(identity[:32], pool)


def artifacts(sha256: str, pool: str | None = None) -> str:
    """Prefix of one image's artifacts."""
    return f"{images(pool)}{sha256}/"


def artifact(sha256: str, stage: Stage, stage_key: str, name: str, pool: str | None = None) -> str:
    """Key of an artifact that one stage made from one image."""
    return f"{artifacts(sha256, pool)}{stage}/{stage_key}/{name}"


def preview(sha256: str, preview_key: str, pool: str | None = None) -> str:
    """Key of the small picture in which reports show an image and what was made from it."""
    return f"{artifacts(sha256, pool)}preview/{preview_key}/preview.jpg"


def batch_prefix(batch: str) -> str:
    """Prefix of everything that belongs to a batch."""
    return f"batches/{batch}/"


def batch_record(batch: str) -> str:
    """Key of the record of what was asked."""
    return f"batches/{batch}/batch.json"


def manifest_part(batch: str, part: str) -> str:
    """Key of one part of the manifest."""
    return f"batches/{batch}/manifest/{part}.jsonl"


def result(batch: str, index: int) -> str:
    """Key of the result record of an image; written once."""
    part, n = part_of(index)
    return f"batches/{batch}/results/{part}/{n}.json"


def failure(batch: str, index: int) -> str:
    """Key of the failure record of an image."""
    part, n = part_of(index)
    return f"batches/{batch}/failed/{part}/{n}.json"


def dicom_file(kind: DicomKind) -> str:
    """What a DICOM object is called in its image's folder."""
    return f"{_DICOM_SUFFIXES[kind]}.dcm"


def dicom(batch: str, index: int, kind: DicomKind) -> str:
    """Key of a DICOM object of an image; written before its result record."""
    part, n = part_of(index)
    return f"batches/{batch}/dicom/{part}/{n}-{dicom_file(kind)}"


def fhir(batch: str, index: int) -> str:
    """Where the FHIR resources of an image lie in a folder of results; the store has none."""
    part, n = part_of(index)
    return f"batches/{batch}/fhir/{part}/{n}.json"


def report(batch: str) -> str:
    """Key of the contact sheet."""
    return f"batches/{batch}/report.html"


def table(batch: str) -> str:
    """Key of the table of all outcomes, one row per image; a folder for a large batch: :func:`table_parts`."""
    return f"batches/{batch}/results.parquet"


def table_parts(batch: str) -> str:
    """Prefix of the table of a large batch: a folder of Parquet files in place of one."""
    return f"{table(batch)}/"


def table_manifest(batch: str) -> str:
    """Key of the list of the files that make up such a table; if it exists, the table is complete."""
    return f"{table_parts(batch)}_manifest.json"


def gathered(batch: str) -> str:
    """Prefix of the rows gathered for a table that will be one file; removed when the batch has closed."""
    return f"gathered/{batch}/"


USAGE = "usage/"
"""Prefix of the usage events of every batch; outside the batches, as deleted batches are billed too."""

USAGE_MANIFEST = "_manifest.json"


def usage_of(batch: str, created: datetime) -> str:
    """Prefix of the usage events of a batch that was asked for at this moment."""
    return f"{USAGE}{batch}/{created.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}/"


def usage_manifest(batch: str, created: datetime) -> str:
    """Key of the list of files of usage events; if it exists, they are complete."""
    return f"{usage_of(batch, created)}{USAGE_MANIFEST}"


def report_signature(batch: str) -> str:
    """Key of the signature of a batch's report."""
    return f"batches/{batch}/report.sig.json"


def summary(batch: str) -> str:
    """Key of the summary; if it exists, the batch is closed."""
    return f"batches/{batch}/summary.json"


def comparison(batch: str) -> str:
    """Key of the report that compares a batch with earlier ones."""
    return f"batches/{batch}/comparison.html"


def comparison_table(batch: str) -> str:
    """Key of the table of that comparison, one row per image."""
    return f"batches/{batch}/comparison.parquet"


def plan_record(batch: str) -> str:
    """Key of the record of how far planning has come."""
    return f"batches/{batch}/plan.json"


def control(batch: str) -> str:
    """Key of the control of an open batch."""
    return f"{OPEN}{batch}.json"


def originals_prefix(batch: str) -> str:
    """Prefix of the sealed table of a batch's original identities; outside it, maybe in another bucket."""
    return f"privacy/{batch}/"


def originals(batch: str, first: int) -> str:
    """Key of the part of that table that begins with this index."""
    return f"privacy/{batch}/{first:09d}.sealed"


def canary(name: str) -> str:
    """Key of the record of a canary."""
    return f"{CANARIES}{name}/canary.json"


def canary_result(name: str, batch: str, index: int) -> str:
    """Key of the record of how old and new models agree on one image."""
    return f"{CANARIES}{name}/results/{batch}/{index}.json"


def canary_results(name: str) -> str:
    """Prefix of the records of how old and new models agree, image by image."""
    return f"{CANARIES}{name}/results/"


def batch_decisions(batch: str) -> str:
    """Prefix of what people decided about a batch's images; outside the batch, so that decisions outlive it."""
    return f"reviews/{batch}/"


def decisions(batch: str, index: int) -> str:
    """Prefix of what people decided about an image."""
    part, n = part_of(index)
    return f"{batch_decisions(batch)}{part}/{n}/"


def reader_decisions(batch: str, index: int, reader: str) -> str:
    """Prefix of what one reader decided about an image; with a digest of the name, which may be any text."""
    return f"{decisions(batch, index)}{hashlib.sha256(reader.encode()).hexdigest()[:32]}/"


def decision(batch: str, index: int, reader: str, version: int) -> str:
    """Key of a decision; written once."""
    return f"{reader_decisions(batch, index, reader)}{version:06d}.json"


def opened_to(batch: str, index: int, reader: str) -> str:
    """Key of the note that a reader saw others' decisions about an image; no batch's name begins with ``_``."""
    part, n = part_of(index)
    return f"reviews/_opened/{batch}/{part}/{n}/{hashlib.sha256(reader.encode()).hexdigest()[:32]}.json"


REVIEWED = "reviewed/"
"""Prefix of the DICOM objects of decisions that were sent; outside the batches."""


def reviewed(batch: str, index: int, reader: str, version: int, kind: str) -> str:
    """Key of a DICOM object of a decision."""
    part, n = part_of(index)
    whose = hashlib.sha256(reader.encode()).hexdigest()[:32]
    return f"{REVIEWED}{batch}/{part}/{n}/{whose}/{version:06d}-{kind}.dcm"


REVIEW_QUEUES = "reviews/_queues/"
"""Prefix of the queues of images that readers are to look at; no batch's name begins with ``_``."""


def review_queue(name: str) -> str:
    """Key of a queue; written once."""
    return f"{REVIEW_QUEUES}{name}.json"


REVIEW_PLANS = "reviews/_plans/"
"""Prefix of the plans of what is to be reviewed; no batch's name begins with ``_``."""


def review_plan(name: str) -> str:
    """Key of a plan of what is to be reviewed; written once."""
    return f"{REVIEW_PLANS}{name}.json"


KEYS = "desk/keys/"
"""Prefix of the keys with which programs use the desk."""

SIMILAR = "similar/"
"""Prefix of the indexes of embeddings, and of what they never show."""

FORBIDDEN = f"{SIMILAR}forbidden/"
"""Prefix of the notes about images that are never shown as similar cases."""

SIMILAR_FACTS = f"{SIMILAR}facts.csv"
"""Key of what the institution says about its images."""


def similar_facts(tenant: str | None) -> str:
    """The same for what a tenant says about its own images."""
    return SIMILAR_FACTS if tenant is None else f"tenants/{tenant}/{SIMILAR_FACTS}"


def access_key(identifier: str) -> str:
    """Key of the record of a key with which a program uses the desk."""
    return f"{KEYS}{identifier}.json"


def known_name(name: str) -> str:
    """Key of the record of who owns a name."""
    return f"desk/people/{hashlib.sha256(name.encode()).hexdigest()}.json"


def uploads(into: str) -> str:
    """Prefix of the files that were uploaded to the desk together, in the incoming bucket."""
    return f"desk/{into}/"


def upload(into: str, name: str) -> str:
    """Key of one of them, by its path below the chosen folder."""
    return f"{uploads(into)}{name}"


def image_sets(person: str) -> str:
    """Prefix of the sets of images that a person has put together."""
    return f"desk/sets/{hashlib.sha256(person.encode()).hexdigest()[:20]}/"


def image_set(person: str, name: str) -> str:
    """Key of one of them."""
    return f"{image_sets(person)}{name}.json"


def similar_file(model: str, name: str) -> str:
    """Key of a file in the index of embeddings from the model whose file has this digest."""
    return f"{SIMILAR}{model[:16]}/{name}"


def similar_index(model: str) -> str:
    """Key of that index's own record; if it exists, the index is complete."""
    return similar_file(model, "index.json")


def forbidden(sha256: str) -> str:
    """Key of the note that an image is never to be shown as a similar case."""
    return f"{FORBIDDEN}{sha256}.json"


SUPPORTS = "supports/"
"""Prefix of the pictures that one-shot models are shown."""


def support_prefix(name: str) -> str:
    """Prefix of everything of a support set."""
    return f"{SUPPORTS}{name}/"


def support_versions(name: str) -> str:
    """Prefix of the versions of a support set, whose keys sort in their order."""
    return f"{support_prefix(name)}versions/"


def support(name: str, version: int) -> str:
    """Key of a version of a support set; written once."""
    return f"{support_versions(name)}{version:06d}.json"


def support_file(name: str, sha256: str) -> str:
    """Key of a picture or mask of a support set, by its digest."""
    return f"{support_prefix(name)}files/{sha256}.png"
