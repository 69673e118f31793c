"""Stand-ins for servers, for tests of the logic around them; the real servers are met in tests/integration."""

import hashlib
import re
from dataclasses import replace

import cv2
import numpy as np

from dermbatch.audit import NO_AUDIT
from dermbatch.errors import ObjectNotFound
from dermbatch.models.served import ServedModel
from dermbatch.stages import Stage
from dermbatch.store import ObjectInfo, Opened, too_large


def served(name="m", size=(-1, -1), *, version="1", sha256="ab" * 32, **parameters):
    """A model whose IMAGE has this size; parameters as in config.pbtxt."""
    texts = {key: str(value) for key, value in parameters.items()}
    return ServedModel(name, version, sha256, 8, {"IMAGE": (*size, 3)}, texts)


class Triton:
    """Answers by plain functions of the input tensors, one for each model name; remembers what it was asked."""

    def __init__(self, functions, models=None):
        self.functions = functions
        self.models = models or {}
        self.asked = []

    def model(self, stage, choice):
        return self.models[stage]

    def infer(self, model, inputs, outputs):
        return self.infer_many(model, [inputs], outputs)[0]

    def infer_many(self, model, items, outputs):
        self.asked += [(model.name, item) for item in items]
        answers = [self.functions[model.name](**item) for item in items]
        return [{name: answer[name] for name in outputs} for answer in answers]


class Store:
    """A store in memory."""

    bucket = "results"
    incoming_bucket = "incoming"
    audit = NO_AUDIT

    def __init__(self):
        self.objects = {}
        self.requests = []
        self.sent = []  # objects whose bytes were asked for
        self.vouches = False

    def get(self, bucket, key, *, max_bytes=None):
        return self.read(bucket, key, max_bytes=max_bytes)[0]

    def read(self, bucket, key, *, max_bytes=None):
        self.requests.append(("get", key))
        if (bucket, key) not in self.objects:
            raise ObjectNotFound(f"no such object in the object store (s3://{bucket})")
        return self.objects[bucket, key], self.etag(bucket, key)

    def opened(self, bucket, key, *, max_bytes=None):
        body, _ = self.read(bucket, key, max_bytes=max_bytes)
        if max_bytes is not None and len(body) > max_bytes:
            raise too_large(len(body), max_bytes)
        vouched = hashlib.sha256(body).hexdigest() if self.vouches else None
        return Opened(vouched, lambda: self.sent.append((bucket, key)) or body, lambda: None)

    def chunks(self, bucket, key):
        yield self.get(bucket, key)

    def etag(self, bucket, key):
        return hashlib.md5(self.objects[bucket, key], usedforsecurity=False).hexdigest()

    def put(self, key, body, content_type, *, bucket=None):
        self.requests.append(("put", key))
        self.objects[bucket or self.bucket, key] = body
        return self.etag(bucket or self.bucket, key)

    def put_if_absent(self, key, body, content_type):
        if (self.bucket, key) in self.objects:
            self.requests.append(("put", key))
            return False
        return bool(self.put(key, body, content_type))

    def put_if_match(self, key, body, content_type, etag):
        there = self.etag(self.bucket, key) if (self.bucket, key) in self.objects else None
        return self.put(key, body, content_type) if there == etag else None

    def delete(self, key, *, bucket=None):
        self.requests.append(("delete", key))
        self.objects.pop((bucket or self.bucket, key), None)

    def delete_prefix(self, bucket, prefix):
        for one in [one for one in self.objects if one[0] == bucket and one[1].startswith(prefix)]:
            del self.objects[one]

    def list(self, bucket, prefix, *, start_after=""):
        self.requests.append(("list", prefix))
        for place, key in sorted(self.objects):
            if place == bucket and key.startswith(prefix) and key > start_after:
                yield ObjectInfo(key, len(self.objects[place, key]))

    def folders(self, bucket, prefix):
        found = (key for place, key in self.objects if place == bucket and key.startswith(prefix))
        parted = (key.removeprefix(prefix).partition("/") for key in found)
        yield from sorted({name for name, slash, _ in parted if slash})

    def keys(self, pattern=""):
        return [key for _, key in sorted(self.objects) if re.search(pattern, key)]


def purify_green(IMAGE):  # noqa: N803 - the tensor's name
    """Pure green is hair; the skin beneath is (200, 150, 130)."""
    hair = (IMAGE[..., 1] > 230) & (IMAGE[..., 0] < 60)
    return {
        "PURIFIED": np.where(hair[..., None], np.array([200, 150, 130], np.uint8), IMAGE),
        "OCCLUSION": hair.astype(np.uint8) * 255,
    }


def segment_dark(IMAGE):  # noqa: N803
    """What is darker than skin is lesion."""
    return {"LESION": (255 / (1 + np.exp((IMAGE[..., 0].astype(np.float32) - 140) / 5))).astype(np.uint8)}


def enlarge_four_times(IMAGE):  # noqa: N803
    """Bicubic enlargement, sharpened, so that it can be told from plain bicubic."""
    large = cv2.resize(IMAGE, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    return {"ENHANCED": cv2.addWeighted(large, 1.5, cv2.GaussianBlur(large, (9, 9), 0), -0.5, 0)}


def double_by_squares(IMAGE):  # noqa: N803
    """Each 2 x 2 pixels, counted from the first, become 4 x 4 of their mean."""
    height, width = (side + side % 2 for side in IMAGE.shape[:2])
    even = np.pad(IMAGE, ((0, height - IMAGE.shape[0]), (0, width - IMAGE.shape[1]), (0, 0)), mode="edge")
    means = even.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    return {"ENHANCED": means.repeat(4, 0).repeat(4, 1)[: 2 * IMAGE.shape[0], : 2 * IMAGE.shape[1]]}


def classify_by_area(IMAGE, LESION):  # noqa: N803
    """The more of the picture is lesion, the more probable is the first class."""
    share = np.float32(LESION.mean() / 255)
    return {
        "PROBABILITIES": np.array([share, (1 - share) / 2, (1 - share) / 2], np.float32),
        "EMBEDDING": IMAGE.reshape(-1, 3).mean(axis=0).astype(np.float32),
        "SALIENCY": LESION[::8, ::8],
    }


def whole_triton(distance=None, **sha256):
    """A stand-in for all four stages; digests by stage name change the model files."""
    parameters = {"classify": {"labels": "melanoma,nevus,seborrheic_keratosis"}}
    models = {
        stage: served(stage.value, sha256=sha256.get(stage.value, "ab" * 32), **parameters.get(stage.value, {}))
        for stage in Stage
    }
    if distance is not None:
        shapes = {**models[Stage.CLASSIFY].shapes, "DISTANCE": (1,)}
        models[Stage.CLASSIFY] = replace(models[Stage.CLASSIFY], shapes=shapes)

    def classify(IMAGE, LESION):  # noqa: N803
        judged = {} if distance is None else {"DISTANCE": np.array([distance], np.float32)}
        return {**classify_by_area(IMAGE, LESION), **judged}

    functions = {
        "purify": purify_green,
        "segment": segment_dark,
        "enhance": enlarge_four_times,
        "classify": classify,
    }
    return Triton(functions, models)


def skin_with_lesion(height, width, *, centre=None, radius=None, hair=False):
    """Even skin with one round dark lesion; a green hair across the top where wanted."""
    image = np.full((height, width, 3), (200, 150, 130), np.uint8)
    row, column = centre or (height // 2, width // 2)
    cv2.circle(image, (column, row), radius or min(height, width) // 4, (90, 60, 50), -1)
    if hair:
        image[height // 16 : height // 16 + max(2, height // 80)] = (10, 250, 20)
    return image
