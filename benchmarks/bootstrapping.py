"""Does mutual bootstrapping (MB-DCNN; Xie et al. 2020; S11 to S13) help, on sources that were not trained on?

``python -m benchmarks.bootstrapping --data DATA --fold 2 --fold 3 --fold 4 [--work DIR] [--json FILE]``
``python -m benchmarks.bootstrapping --smoke``: drawn pictures and a few steps, as a test

For each source left out (:mod:`lesionnets.data.sources.folds`), one after the other, on EfficientNet-Lite0:

- ``coarse``: coarse-SN;
- ``guided``: mask-CN, shown coarse-SN's or the expert's mask in training and coarse-SN's when measured;
- ``blind``: its control, shown masks of ones;
- ``enhanced``: from coarse-SN's weights, told where ``guided`` looked;
- ``longer``: its control, the same told zeros.

An arm and its control have the same first weights, pictures, order and number of steps. The encoder's first layers
stay ImageNet's, and what they see of ``--views`` views of each picture is kept
(:mod:`lesionnets.nets.mutual.mb_dcnn_lite`). Diagnoses are drawn alike within a source. Nothing is chosen on the
source left out: the last weights count.

Printed are AUCs and Jaccards (at 0.5, squashed, of what the network says) with 95 % bootstrap intervals over
pictures, drawn within source and diagnosis, and differences image by image; means over folds. One training an arm.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.arguments import read_arguments
from benchmarks.figures import Judge, drawn_samples, over_folds, ranked, tell
from lesionnets.data.augment import augment_pair
from lesionnets.data.batches.in_memory import balanced
from lesionnets.data.sources.folds import all_samples, fold, source_of
from lesionnets.data.sources.isic import DIAGNOSES, Sample, read_pair
from lesionnets.evaluation.figures.intervals import Figure
from lesionnets.evaluation.figures.overlap import jaccard
from lesionnets.losses.balanced import balanced_cross_entropy
from lesionnets.losses.rank import dice_rank_loss
from lesionnets.nets.efficient_lite import EfficientLite, load_imagenet
from lesionnets.nets.mutual.mask_guided import localisation_map
from lesionnets.nets.mutual.mb_dcnn_lite import Front, LiteMaskCN, LiteSN
from lesionnets.training import one_cycle

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
BATCH, RATE, AT_ONCE = 32, 1e-3, 64
BLIND = 0.05
"""Share of pictures whose mask says nothing in mask-CN's training, as where segmentation finds nothing."""
PAIRS = (("guided", "blind"), ("enhanced", "longer"), ("enhanced", "coarse"))


@dataclass(frozen=True)
class FrozenFeatures:
    """What the frozen layers see of pictures, with the experts' masks.

    Attributes:
        fine: Float16 [N, 24, S / 4, S / 4].
        deep: Float16 [N, 112, S / 16, S / 16].
        masks: Uint8 [N, 1, S, S], 0 to 255.
        labels: Int64 [N]; -1 without a diagnosis.
        sources: Int64 [N].
    """

    fine: Tensor
    deep: Tensor
    masks: Tensor
    labels: Tensor
    sources: Tensor

    def small(self, rows: Tensor) -> Tensor:
        """Masks as mask-CN takes them: float [n, 1, S / 4, S / 4]."""
        return nn.functional.avg_pool2d(self.masks[rows].float() / 255, 4)


def main() -> None:
    """Train what is asked for, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="in the layout of docs/data.md")
    parser.add_argument("--fold", action="append", default=[], type=int, metavar="SOURCE")
    parser.add_argument("--size", type=int, default=128, help="side of all pictures, pixels")
    parser.add_argument("--views", type=int, default=3, help="views that are kept of each picture")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--seed", type=int, default=2017)
    parser.add_argument("--work", type=Path, help="keeps what each fold has given, to go on from")
    parser.add_argument("--json", type=Path, help="figures, to be written")
    asked = read_arguments(parser, folds=True)
    with TemporaryDirectory() as scratch:
        asked.work = asked.work or Path(scratch)
        asked.work.mkdir(parents=True, exist_ok=True)
        if asked.smoke:
            asked.size, asked.steps, asked.views = 64, 2, 1
            samples = drawn_samples(asked.work, 18)
            parts = [_arms(asked, samples[:9], samples[9:])]
        else:
            samples = [one for one in all_samples(asked.data, "train") if one.diagnosis and one.mask]
            parts = [_kept(asked, samples, source) for source in asked.fold]
    tell(measured(parts), asked.json)


def measured(parts: Sequence[dict[str, Floats]]) -> dict[str, Figure]:
    """Figures of each arm, and differences of pairs: see :func:`benchmarks.figures.over_folds`.

    Args:
        parts: Of each fold ``labels`` [N]; ``guided`` and ``blind``, probabilities [N, 3]; ``coarse``,
            ``enhanced`` and ``longer``, Jaccards [N].
    """

    def judge(arm: Floats, labels: Labels) -> Judge:
        if arm.ndim == 1:
            return lambda weights: {"jaccard": float(np.average(arm, weights=weights))}
        return ranked(arm, labels)

    labels = [part["labels"].astype(np.int64) for part in parts]
    arms = [
        {name: judge(arm, of_part) for name, arm in part.items() if name != "labels"}
        for part, of_part in zip(parts, labels, strict=True)
    ]
    return over_folds(list(zip(labels, arms, strict=True)), PAIRS)


def _kept(asked: argparse.Namespace, samples: Sequence[Sample], source: int) -> dict[str, Floats]:
    """What a fold gives, trained unless it was before; printed too."""
    name = f"{source}_{asked.size}_{asked.views}_{asked.steps}_{asked.seed}.npz"
    path = asked.work / name
    if not path.exists():
        np.savez(path, **_arms(asked, *fold(samples, source)))
    part = dict(np.load(path))
    tell(measured([part]), prefix=f"source {source}: ")
    return part


def _arms(asked: argparse.Namespace, training: Sequence[Sample], held_out: Sequence[Sample]) -> dict[str, Floats]:
    """All five trainings, and what they say of the pictures held out."""
    encoder = EfficientLite(0)
    if not asked.smoke:
        load_imagenet(encoder, 0)
    front = Front(encoder).eval()
    seen = look(front, training, asked.size, asked.views, asked.seed)
    unseen = look(front, held_out, asked.size, 0, asked.seed)
    print(f"{len(seen.labels)} views of {len(training)} pictures, {len(held_out)} held out", flush=True)
    coarse = _segmenter(asked, seen, zeros, LiteSN())
    masks, found = (torch.sigmoid(_run_segmenter(coarse, part, zeros)) for part in (seen, unseen))
    results = {"labels": unseen.labels.numpy().astype(np.float64), "coarse": _jaccards(found, unseen)}
    shown = {"guided": (masks, found), "blind": (torch.ones_like(masks), torch.ones_like(found))}
    guides = {}
    for arm, (there, here) in shown.items():
        guides[arm] = _classifier(asked, seen, there, guided=arm == "guided")
        logits = _run_classifier(guides[arm], unseen, here)[0]
        results[arm] = logits.double().softmax(dim=1).numpy()
    maps = [_where(guides["guided"], *pair) for pair in ((seen, masks), (unseen, found))]
    for arm, told in {"enhanced": maps, "longer": [torch.zeros_like(one) for one in maps]}.items():
        model = LiteSN()
        model.load_state_dict(coarse.state_dict())
        model = _segmenter(asked, seen, told[0].__getitem__, model)
        results[arm] = _jaccards(torch.sigmoid(_run_segmenter(model, unseen, told[1].__getitem__)), unseen)
    return results


@torch.inference_mode()
def look(front: Front, samples: Sequence[Sample], size: int, views: int, seed: int) -> FrozenFeatures:
    """What the frozen layers see of so many views of each picture; of the plain picture where there is none."""
    random = np.random.default_rng(seed)
    fine, deep, masks = [], [], []
    for sample in samples:
        image, mask = read_pair(sample, size * 4 // 3 if views else size)
        pairs = [augment_pair(image, mask, size, random) for _ in range(views)] or [(image, mask)]
        pictures = torch.from_numpy(np.stack([one for one, _ in pairs])).permute(0, 3, 1, 2)
        values = front(pictures.float() / 255)
        fine.append(values[0].half())
        deep.append(values[1].half())
        masks.append(torch.from_numpy(np.stack([one for _, one in pairs]))[:, None])
    labels = torch.tensor([DIAGNOSES.index(str(one.diagnosis)) for one in samples])
    sources = torch.tensor([source_of(one.image_id) for one in samples])
    often = max(views, 1)
    return FrozenFeatures(
        torch.cat(fine),
        torch.cat(deep),
        torch.cat(masks),
        labels.repeat_interleave(often),
        sources.repeat_interleave(often),
    )


def zeros(rows: Tensor) -> Tensor:
    """A map that tells nothing."""
    return torch.zeros(len(rows), 1, 1, 1)


def _train(
    asked: argparse.Namespace,
    model: nn.Module,
    chances: Tensor,
    groups: list[dict[str, object]],
    loss: Callable[[Tensor], Tensor],
) -> None:
    """AdamW at one cycle of rates, over pictures drawn by their chances; alike for all arms of a kind."""
    random = torch.Generator().manual_seed(asked.seed)
    optimiser = torch.optim.AdamW(groups, weight_decay=0.02)
    peaks = [group["lr"] for group in optimiser.param_groups]
    model.train()
    for step in range(asked.steps):
        rows = torch.multinomial(chances, BATCH, replacement=True, generator=random)
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * one_cycle(step / asked.steps)
        optimiser.zero_grad(set_to_none=True)
        value = loss(rows)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    model.eval()


def _segmenter(
    asked: argparse.Namespace, seen: FrozenFeatures, where: Callable[[Tensor], Tensor], model: LiteSN
) -> LiteSN:
    torch.manual_seed(asked.seed)

    def loss(rows: Tensor) -> Tensor:
        logits = model(seen.fine[rows].float(), seen.deep[rows].float(), where(rows))
        return dice_rank_loss(logits, seen.masks[rows].float() / 255)

    groups: list[dict[str, object]] = [{"params": list(model.parameters()), "lr": RATE}]
    _train(asked, model, torch.ones(len(seen.labels)), groups, loss)
    return model


def _classifier(asked: argparse.Namespace, seen: FrozenFeatures, found: Tensor, *, guided: bool) -> LiteMaskCN:
    """Trained on masks [N, 1, S, S] that were found, half of the time on the expert's where it is guided."""
    torch.manual_seed(asked.seed)
    encoder = EfficientLite(0)
    if not asked.smoke:
        load_imagenet(encoder, 0)
    model = LiteMaskCN(encoder, len(DIAGNOSES))
    random = torch.Generator().manual_seed(asked.seed)
    even = torch.ones(len(DIAGNOSES))

    def loss(rows: Tensor) -> Tensor:
        masks = nn.functional.avg_pool2d(found[rows], 4)
        drawn = torch.rand(len(rows), generator=random)[:, None, None, None]
        if guided:
            masks = torch.where(drawn < 0.5, seen.small(rows), masks) * (drawn > BLIND)
        return balanced_cross_entropy(
            model(seen.deep[rows].float(), masks)[0], seen.labels[rows], even, smoothing=0.1
        )

    taught = list(model.taught.parameters())
    fast = [*model.told.parameters(), *model.head.parameters()]
    groups: list[dict[str, object]] = [{"params": fast, "lr": RATE}, {"params": taught, "lr": RATE / 10}]
    _train(asked, model, balanced(seen.labels, seen.sources, 1.0), groups, loss)
    return model


@torch.inference_mode()
def _run_segmenter(model: LiteSN, seen: FrozenFeatures, where: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits [N, 1, S, S]."""
    parts = torch.split(torch.arange(len(seen.labels)), AT_ONCE)
    return torch.cat([model(seen.fine[rows].float(), seen.deep[rows].float(), where(rows)) for rows in parts])


@torch.inference_mode()
def _run_classifier(model: LiteMaskCN, seen: FrozenFeatures, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, classes] and maps [N, classes, h, w]."""
    parts = torch.split(torch.arange(len(seen.labels)), AT_ONCE)
    told = [model(seen.deep[rows].float(), nn.functional.avg_pool2d(masks[rows], 4)) for rows in parts]
    return torch.cat([logits for logits, _ in told]), torch.cat([maps for _, maps in told])


def _where(model: LiteMaskCN, seen: FrozenFeatures, masks: Tensor) -> Tensor:
    return localisation_map(*_run_classifier(model, seen, masks))


def _jaccards(found: Tensor, seen: FrozenFeatures) -> Floats:
    masks = (found[:, 0] >= 0.5).numpy(), (seen.masks[:, 0] >= 128).numpy()
    return np.array([jaccard(one, truth) for one, truth in zip(*masks, strict=True)])


if __name__ == "__main__":
    main()
