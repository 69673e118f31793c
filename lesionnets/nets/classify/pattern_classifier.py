"""A classifier that discovers patterns: a shallow and a bilinear-pooling network (US 2018/0130203 A1, [0063]).

Each network gives a local descriptor for each place of the picture. Over the lesion's mask, the shallow network's
descriptors are averaged, and so are the outer products of the other network's descriptors with themselves (Lin et
al., "Bilinear CNN Models for Fine-grained Visual Recognition", ICCV 2015, section 3). The averages are passed
through a signed square root and scaled to length 1 (section 3.1 there), fused, and read by one linear layer. What
the patent leaves open is in docs/decisions/0045.
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
"""Added under the square root, whose slope is infinite at 0."""
_BY_LESION = 0.5
"""Part of a place's weight that comes from its share of the lesion; the rest comes from what it contributed."""


class Pooled(NamedTuple):
    """Averages over places, as the linear layer reads them.

    Attributes:
        values: Float [N, F]: signed roots, scaled to length sqrt(F), so that each is about 1.
        factors: Float [N, F]: the factors by which the averages were multiplied.
    """

    values: Tensor
    factors: Tensor


class PatternClassifier(Classifier):
    """A shallow and a bilinear-pooling network, read by one linear layer.

    The share of a place in a diagnosis is exact. Each entry of the averaged outer product m becomes z = a m with a
    = 1 / sqrt(|m| + e) / length. Now m is a sum over places p, m = sum of g_p x_p x_p^T with the lesion's weights
    g, so the logit is one, too: sum over k of w_k a_k m_k = sum over p of g_p x_p^T (W * A) x_p. The factors a
    belong to the picture as a whole. The shallow network's share is linear in the same way.

    Args:
        size: Side of the network's input in pixels.
        diagnoses: Names of the classes.
        shallow: Length of the shallow network's descriptors, S.
        descriptors: Length of the deep network's descriptors, D.
        dropout: Share of the fused features that is dropped in training.

    Attributes:
        patterns: Length of a place's descriptor: S + D.

    Shape:
        image float [N, 3, size, size], 0 to 1; mask float [N, 1, size, size], 0 to 1
        -> logits [N, classes], embedding [N, S + D * D] of length 1,
        maps [N, classes, h, w], which sum to the logits minus the bias.
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
        """As ``forward``, and the places: the descriptors of both networks, scaled to one length.

        Half of a place's weight is its share of the lesion; the other half is how much more it speaks for the most
        probable diagnosis than for the others.
        """
        shallow, deep = self.streams(image)
        logits, embedding, maps = self.diagnose(shallow, deep, mask)
        both = torch.cat([functional.normalize(part, dim=1) for part in (shallow, deep)], dim=1)
        weights = place_weights(logits, maps, lesion_weight(mask, deep.shape[-2:]))
        return logits, embedding, maps, Places(functional.normalize(both, dim=1), weights)

    def diagnose(self, shallow: Tensor, deep: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``forward`` for descriptors that were computed before."""
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
    """Signed square roots of averages float [N, F], scaled to length sqrt(F)."""
    roots = 1 / (means.abs() + _LEAST).sqrt()
    length = (means * roots).square().sum(dim=1, keepdim=True).add(_LEAST).sqrt()
    factors = roots / length * means.shape[1] ** 0.5
    return Pooled(means * factors, factors)


def place_weights(logits: Tensor, maps: Tensor, lesion: Tensor) -> Tensor:
    """How much each place counts, float [N, 1, h, w], with the sum 1: see :meth:`PatternClassifier.places`.

    Args:
        logits: Float [N, classes].
        maps: Float [N, classes, h, w]: what each place added to the logits.
        lesion: Float [N, 1, h, w], with the sum 1.
    """
    best = logits.argmax(dim=1, keepdim=True)
    top = (torch.arange(logits.shape[1], device=logits.device)[None] == best).to(maps.dtype)[:, :, None, None]
    speaks = ((maps - maps.mean(dim=1, keepdim=True)) * top).sum(dim=1, keepdim=True).clamp(min=0)
    total = speaks.sum(dim=(2, 3), keepdim=True)
    # Where nothing speaks for it, the lesion alone decides.
    share = torch.where(total > 0, speaks / total.clamp(min=1e-9), lesion)
    return _BY_LESION * lesion + (1 - _BY_LESION) * share
