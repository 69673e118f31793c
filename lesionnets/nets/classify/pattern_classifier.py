"""Patterns that a classifier discovers: a shallow and a bilinear-pooling network (US 2018/0130203 A1, [0063]).

Both give a local descriptor for each place of the picture. Those of the shallow network are averaged; of those
of the other the outer product with themselves is (Lin et al., "Bilinear CNN Models for Fine-grained Visual
Recognition", ICCV 2015, section 3), both over the lesion's map. Signed square root and length 1 follow (there,
section 3.1); one linear layer reads what is fused. What the patent leaves open is in docs/decisions/0045.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionnets.nets.classify.classifier import Classifier, Places
from lesionnets.nets.classify.mobilenet import lesion_weight

_LEAST = 1e-5
"""Added below the root: its slope has no end at 0."""
_BY_LESION = 0.5
"""Share of a place's weight that it has by being lesion; the rest it has by what it contributed."""


class Pooled(NamedTuple):
    """Averages of something at places, as the linear layer takes them.

    Attributes:
        values: Float [N, F]: signed roots, of length sqrt(F) together, so that each is about 1.
        factors: Float [N, F]: what the averages were multiplied by.
    """

    values: Tensor
    factors: Tensor


class PatternClassifier(Classifier):
    """A shallow and a bilinear-pooling network under one linear layer.

    A place's share in a diagnosis is exact. The average m of the outer products, an entry of it at a time, becomes
    z = a m with a = 1 / sqrt(|m| + e) / length. Since m is a sum over places, m = sum over p of g_p x_p x_p^T
    with g the lesion's weights, so is the logit: sum over k of w_k a_k m_k = sum over p of g_p x_p^T (W * A)
    x_p. The factors a are the picture's own. The shallow network's share is linear likewise.

    Args:
        size: Side of the network's input, pixels.
        diagnoses: Names of its classes.
        shallow: Length of the shallow network's descriptors, S.
        descriptors: Length of the others, D.
        dropout: Share of what is fused that is dropped in training.

    Attributes:
        patterns: Length of what describes a place: S + D.

    Shape:
        image float [N, 3, size, size], 0 to 1; mask float [N, 1, size, size], 0 to 1
        -> logits [N, classes], embedding [N, S + D * D] of length 1,
        maps [N, classes, h, w], which sum to the logits less the bias.
    """

    def __init__(
        self, size: int, diagnoses: Sequence[str], *, shallow: int, descriptors: int, dropout: float = 0.3
    ) -> None:
        super().__init__(size, diagnoses, shallow + descriptors**2)
        self.patterns = shallow + descriptors
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.features, len(self.diagnoses))

    def streams(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Float [N, 3, size, size], 0 to 1 -> descriptors of both networks, [N, S, h, w] and [N, D, h, w]."""
        raise NotImplementedError

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        return self.diagnose(*self.streams(image), mask)

    def places(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Places]:
        """As ``forward``, and what its places look like: both networks' descriptors, brought to one length.

        A place weighs half by its share of the lesion, half by what speaks for the most probable diagnosis there
        more than for the others.
        """
        shallow, deep = self.streams(image)
        logits, embedding, maps = self.diagnose(shallow, deep, mask)
        both = torch.cat([functional.normalize(part, dim=1) for part in (shallow, deep)], dim=1)
        weights = place_weights(logits, maps, lesion_weight(mask, deep.shape[-2:]))
        return logits, embedding, maps, Places(functional.normalize(both, dim=1), weights)

    def diagnose(self, shallow: Tensor, deep: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``forward`` for descriptors that are there already."""
        weight = lesion_weight(mask, deep.shape[-2:])
        plain = pooled((shallow * weight).sum(dim=(2, 3)))
        columns = deep.flatten(2)
        products = (columns * weight.flatten(2)) @ columns.transpose(1, 2)
        second = pooled(products.flatten(1))
        fused = torch.cat([plain.values, second.values], dim=1)
        by_plain, by_second = self.head.weight[:, : shallow.shape[1]], self.head.weight[:, shallow.shape[1] :]
        linear = torch.einsum("ck,nk,nkp->ncp", by_plain, plain.factors, shallow.flatten(2))
        count, side, height, width = deep.shape
        forms = (by_second[None] * second.factors[:, None]).reshape(count, -1, side, side)
        squared = torch.einsum("ncip,nip->ncp", forms @ columns[:, None], columns)
        maps = ((linear + squared) * weight.flatten(2)).reshape(count, -1, height, width)
        return self.head(self.dropout(fused)), functional.normalize(fused, dim=1), maps


def pooled(means: Tensor) -> Pooled:
    """Signed square roots of averages [N, F], brought to length sqrt(F)."""
    roots = 1 / (means.abs() + _LEAST).sqrt()
    length = (means * roots).square().sum(dim=1, keepdim=True).add(_LEAST).sqrt()
    factors = roots / length * means.shape[1] ** 0.5
    return Pooled(means * factors, factors)


def place_weights(logits: Tensor, maps: Tensor, lesion: Tensor) -> Tensor:
    """What each place counts, float [N, 1, h, w], sum 1: see :meth:`PatternClassifier.places`.

    Args:
        logits: Float [N, classes].
        maps: Float [N, classes, h, w]: what each place added to them.
        lesion: Float [N, 1, h, w], sum 1.
    """
    best = logits.argmax(dim=1, keepdim=True)
    top = (torch.arange(logits.shape[1], device=logits.device)[None] == best).to(maps.dtype)[:, :, None, None]
    speaks = ((maps - maps.mean(dim=1, keepdim=True)) * top).sum(dim=1, keepdim=True).clamp(min=0)
    total = speaks.sum(dim=(2, 3), keepdim=True)
    # Where nothing speaks for it, the lesion alone decides.
    share = torch.where(total > 0, speaks / total.clamp(min=1e-9), lesion)
    return _BY_LESION * lesion + (1 - _BY_LESION) * share
