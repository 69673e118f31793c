"""compose.yaml under fire: containers are killed, ended and exchanged in mid-batch, what they leave is verified.

The images are those of `make containers`: ours as they are, stand-ins for foreign ones. Each container gets a
SIGKILL, after which its restart policy has to bring it back, and a graceful end; the worker's image is exchanged
for one of changed code; a rolling update brings Triton a new version of a model. Images are submitted meanwhile,
and dropped into the bucket that is watched. In the end the desk has to show every batch.

The last line is ``lost=0 duplicated=0 torn=0 failed=0 kills=... ends=... upgrades=... images=...``, and the exit
status is 1 where one of the four is not 0. Needs ports 8080, 9000 and 9090 of 127.0.0.1, and root, as podman's
bridge does.

    python -m benchmarks.containers [--images N] [--rounds N] [--seed S] [--parts LIST]
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.containers.engine import EngineFailed, inspect, podman
from benchmarks.containers.images import OURS, make_ours
from benchmarks.containers.town import PROGRAMS, SERVERS, Town, container, sources, there
from benchmarks.killloop.verdict import Verdict, judge, pictures_whole
from benchmarks.killloop.work import closed
from dermbatch import layout
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import encode
from dermbatch.records.asked import Batch
from dermbatch.settings import DEFAULT_MODELS

DROP = "drop"
PARTS = ("fire", "rolling")
_TRIES = 5
_TIMES_ROLLED = 2  # images of the batch that has to outlast an exchange of Triton, over those of other batches
_SHARE_LATER, _SHARE_DROPPED = 0.2, 0.1  # of the images, beside them
_BUSY = 0.9  # share of a batch's images in which strikes fall
_PER_IMAGE, _PER_STRIKE = 6.0, 60.0  # seconds after which a batch has not ended in time
_LONGEST_PAUSE = 20.0  # without progress the next strike comes anyway
_TARGETS = {"dermbatch-worker": 2} | {
    f"dermbatch-{name}": 1 for name in ("orchestrator", "watch", "desk", "triton")
}
_MODEL = "classify_lite"


@dataclass
class Findings:
    """What was done, and found.

    Attributes:
        kills: SIGKILLs.
        ends: Graceful ends.
        upgrades: Containers that were exchanged for ones of another image.
        slow: Seconds until a container was back, the longest by service.
        verdicts: By batch.
        wrong: Sentences about what is not as it should be, beside the verdicts.
    """

    kills: int = 0
    ends: int = 0
    upgrades: int = 0
    slow: dict[str, float] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def line(self, images: int) -> str:
        """The last line."""
        counted = {
            "lost": sum(verdict.lost for verdict in self.verdicts.values()),
            "duplicated": sum(verdict.duplicated for verdict in self.verdicts.values()),
            "torn": sum(verdict.torn for verdict in self.verdicts.values()),
            "failed": sum(verdict.failed.total() for verdict in self.verdicts.values()),
        }
        counted |= {"kills": self.kills, "ends": self.ends, "upgrades": self.upgrades, "images": images}
        return " ".join(f"{name}={count}" for name, count in counted.items())

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        four = (v.lost or v.duplicated or v.torn or v.failed.total() for v in self.verdicts.values())
        return not any(four) and not self.wrong


class Check:
    """One run.

    Args:
        town: Its containers run.
        images: Of a batch under fire; when one is nearly done, another one follows.
        rounds: How often each container is struck in each way.
        seed: Of the order of strikes.
    """

    def __init__(self, town: Town, images: int, rounds: int, seed: int) -> None:
        self._town, self._images, self._rounds = town, images, rounds
        self._rng = random.Random(seed)
        self._store = town.store()
        self._drawn = 0
        self.findings = Findings()

    def run(self, parts: Sequence[str] = PARTS) -> Findings:
        """The parts in turn, then the verification of all that they have left."""
        for part in parts:
            {"fire": self._under_fire, "rolling": self._rolling}[part]()
        self._verify()
        hidden = set(self.findings.verdicts) - self._town.shown()
        if hidden:
            self.findings.wrong.append(f"the desk does not show {', '.join(sorted(hidden))}")
        self._check_targets()
        return self.findings

    def _check_targets(self) -> None:
        targets = self._town.targets()
        say(f"Prometheus: {targets}")
        for job, least in _TARGETS.items():
            if targets.get(job, []).count("up") < least:
                self.findings.wrong.append(f"Prometheus sees {targets.get(job)} of {job}")

    def _under_fire(self) -> None:
        """Everything is struck, the worker's image exchanged, objects dropped; a batch is always open."""
        listed = [(how, service) for service in (*SERVERS, *PROGRAMS) for how in ("kill", "stop")] * self._rounds
        self._rng.shuffle(listed)
        listed.insert(len(listed) // 2, ("upgrade", "worker"))
        share = self._images * _BUSY / (len(listed) + 1)
        names: list[str] = []
        for number, (how, service) in enumerate(listed):
            if not names or self._ended(names[-1]) > self._images * _BUSY:
                names.append(f"fire-{len(names) + 1}")
                self._submit(names[-1], self._images)
            self._wait_for(names[-1], self._ended(names[-1]) + share, _LONGEST_PAUSE)
            if number % max(1, len(listed) // 4) == 0:
                self._drop(round(self._images * _SHARE_DROPPED / 4) or 1)
            self._strike(how, service)
            say(f"  {self._ended(names[-1])} of {self._images} images of {names[-1]} are done")
        for name in names:
            self._finish(name, _PER_IMAGE * self._images + _PER_STRIKE * len(listed))

    def _strike(self, how: str, service: str) -> None:
        started = time.monotonic()
        if how == "kill":
            self._town.kill(service)
            self.findings.kills += 1
        elif how == "stop":
            self._town.stop(service)
            self.findings.ends += 1
        else:
            self._exchange_workers()
        seconds = time.monotonic() - started
        self.findings.slow[service] = max(seconds, self.findings.slow.get(service, 0.0))
        say(f"{how} {service}: healthy after {seconds:.0f} s")

    def _exchange_workers(self) -> None:
        """Build the worker with changed code, and put it in the place of both that run."""
        before = inspect("image", OURS["worker"])
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="dermbatch-sources-") as place, sources(Path(place)) as changed:
            with (changed / "workers" / "__init__.py").open("a") as module:
                module.write("# Changed for a check of upgrades.\n")
            (new,) = make_ours(changed, names=("worker",)).values()
        seconds = time.monotonic() - started
        layers, old = (inspect("image", name)["RootFS"]["Layers"] for name in (new, before["Id"]))
        say(
            f"a change of code: built again in {seconds:.0f} s, "
            f"{len(set(layers) - set(old))} of {len(layers)} layers differ"
        )
        if new == before["Id"] or layers[:-1] != old[:-1]:
            self.findings.wrong.append("a change of code did not change the last layer alone")
        services = ("worker", "worker-live")
        self._town.compose("up", "--detach", "--no-build", "--no-deps", "--force-recreate", *services)
        for service in services:
            self._town.wait(container(service))
            self._count_upgrade(container(service), new)

    def _rolling(self) -> None:
        """A batch pinned to version 1 while Triton is exchanged, one of version 2 as soon as that is served."""
        rolled, later = self._images * _TIMES_ROLLED, round(self._images * _SHARE_LATER)
        with tempfile.TemporaryDirectory(prefix="dermbatch-sources-") as place, sources(Path(place)) as changed:
            add_version(changed / "model_repository" / _MODEL)
            (new,) = make_ours(changed, names=("triton",)).values()
        self._submit("rolling", rolled, *self._pinned("1"))
        self._town.compose(
            *("up", "--detach", "--no-build", "--no-deps", "--no-recreate", "--scale", "triton=2", "triton")
        )
        self._town.wait(container("triton", 2))
        self._count_upgrade(container("triton", 2), new)
        early = self._submitted_early("next", later, *self._pinned("2"))
        podman("stop", container("triton"))
        podman("rm", container("triton"))
        done = self._ended("rolling")
        say(f"rolling update: the old Triton is gone, {done} of {rolled} images done")
        if done == rolled:
            self.findings.wrong.append("the batch was over before the old Triton was gone: give more --images")
        if not early:
            self._submit("next", later, *self._pinned("2"))
        for name, images in (("rolling", rolled), ("next", later)):
            self._finish(name, _PER_IMAGE * images + _PER_STRIKE)

    def _count_upgrade(self, name: str, image: str) -> None:
        if inspect("container", name)["Image"] == image:
            self.findings.upgrades += 1
        else:
            self.findings.wrong.append(f"{name} does not run the new image")

    def _pinned(self, version: str) -> list[str]:
        """Options that pin the models: the one that is updated to a version."""
        pins = {stage: f"{stage}={choice.name}@1" for stage, choice in DEFAULT_MODELS.items()}
        return [
            word
            for pin in pins.values()
            for word in ("--model", pin.replace(f"{_MODEL}@1", f"{_MODEL}@{version}"))
        ]

    def _submitted_early(self, name: str, images: int, *options: str) -> bool:
        """Submit what one of two servers has: the command asks any of them, and refuses where it asks the other.

        Returns:
            Whether it asked the right one, within a few tries; then some of the images have met the wrong one.
        """
        for _ in range(_TRIES):
            with suppress(EngineFailed):
                self._submit(name, images, "--live", *options)
                self._wait_for(name, 2, _LONGEST_PAUSE)
                return True
        return False

    def _submit(self, name: str, images: int, *options: str) -> None:
        folder = self._town.images / name
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)
            for file, data in self._draw(images):
                (folder / file).write_bytes(data)
        words = ["submit", f"/images/{name}", "--batch", name, *options]
        say(f"submitted {self._town.command('dermbatch', *words)}: {images} images")

    def _drop(self, images: int) -> None:
        for file, data in self._draw(images):
            self._store.put(file, data, "image/jpeg", bucket=DROP)

    def _draw(self, images: int) -> Iterator[tuple[str, bytes]]:
        """Names and bytes of phantoms, each another one."""
        for _ in range(images):
            self._drawn += 1
            drawn = phantom(self._drawn, height=300, width=400)
            yield f"{self._drawn}.jpg", encode(drawn, ".jpg", identity=self._drawn)

    def _ended(self, name: str) -> int:
        return there(self._store, f"{layout.batch_prefix(name)}results/")

    def _wait_for(self, name: str, images: float, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._ended(name) < images and time.monotonic() < deadline:
            time.sleep(0.3)

    def _finish(self, name: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not closed(self._store, name):
            if time.monotonic() > deadline:
                self.findings.wrong.append(f"{name} has not ended in time")
                return
            time.sleep(1)

    def _verify(self) -> None:
        """Every batch that is in the store, the watch service's own among them."""
        prefix = "batches/"
        records = {
            info.key for info in self._store.list(self._store.bucket, prefix) if info.key.endswith("/batch.json")
        }
        batches = [Batch.model_validate_json(self._store.get(self._store.bucket, key)) for key in sorted(records)]
        for batch in batches:
            if batch.growing:
                self._wait_for(batch.name, batch.images, _PER_STRIKE + _PER_IMAGE * batch.images)
            else:
                self._finish(batch.name, _PER_STRIKE)
        log = self._town.written()
        for batch in batches:
            verdict = judge(self._store, log, batch, pictures_whole, Counter(), ours=True)
            if batch.growing:
                verdict.complaints.clear()  # that it is open, as the watch service's are for a day
            self.findings.verdicts[batch.name] = verdict
            say(f"{batch.name}: {batch.images} images, {verdict}")
        if sum(batch.images for batch in batches) != self._drawn:
            self.findings.wrong.append(f"batches have {sum(b.images for b in batches)} images of {self._drawn}")

    @property
    def images(self) -> int:
        """All that were drawn."""
        return self._drawn


def add_version(model: Path) -> None:
    """Give a model its next version: the same weights under the next number, named in the configuration."""
    shutil.copytree(model / "1", model / "2")
    config = (model / "config.pbtxt").read_text(encoding="utf-8")
    (line,) = [line for line in config.splitlines() if '"sha256.1"' in line]
    (model / "config.pbtxt").write_text(f"{config}{line.replace('sha256.1', 'sha256.2')}\n", encoding="utf-8")


def say(sentence: str) -> None:
    """Print at once."""
    print(f"{time.strftime('%H:%M:%S')} {sentence}", flush=True)


def main(arguments: list[str]) -> int:
    """Run, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="of a batch under fire; there is always one")
    parser.add_argument("--rounds", type=int, default=1, help="how often each container is struck in each way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", default=",".join(PARTS), help="strikes and an upgrade; Triton's rolling update")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    first = {name: inspect("image", image)["Id"] for name, image in OURS.items()}
    with tempfile.TemporaryDirectory(prefix="dermbatch-compose-") as place:
        town = Town(Path(place))
        town.down()
        try:
            town.up()
            say(f"all is healthy after {time.monotonic() - started:.0f} s")
            check = Check(town, options.images, options.rounds, options.seed)
            findings = check.run(options.parts.split(","))
        finally:
            town.down()
            for name, image in OURS.items():
                podman("tag", first[name], image)
    complaints = [sentence for verdict in findings.verdicts.values() for sentence in verdict.complaints]
    for sentence in [*findings.wrong, *complaints]:
        say(sentence)
    say(f"longest until healthy: { {name: round(seconds) for name, seconds in findings.slow.items()} }")
    say(f"{time.monotonic() - started:.0f} s")
    print(findings.line(check.images))
    return 0 if findings.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
