"""Full-ranking metrics: where the true next item stands among all candidates.

The rank counts from 1, and every tie counts against the model: a model that gives all items the
same score ranks the target last. A score that is not a number never helps either.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch

MISSED = 2**62
"""The rank of a target that is no candidate: beyond any list."""
AT_ONCE = 2**18
"""Scores that are compared in one go: what it takes stays small, and in the processor's cache (a
GPU, which has none of that kind, is given more)."""


def target_ranks(
    scores: torch.Tensor, targets: torch.Tensor, excluded: torch.Tensor | None = None
) -> torch.Tensor:
    """The rank of each target among the candidates.

    Args:
        scores: ``(batch, num_items)``; higher is better.
        targets: column of the true item, ``(batch,)``.
        excluded: columns that are no candidates, ``(batch, n)``, negative where there is none;
            repetitions do not matter.

    Returns:
        ``(batch,)``, from 1 (best) to the number of candidates; :data:`MISSED` for a target that is
        excluded itself.
    """
    target_scores = scores.gather(1, targets[:, None])
    below = torch.empty_like(targets)
    for rows in few_rows(scores):
        # What is not below counts, rather than what is above: ties and NaN on either side count
        # against the model.
        below[rows] = (scores[rows] < target_scores[rows]).sum(1, dtype=torch.int32).long()
    ranks = scores.shape[1] - below
    if excluded is not None:
        named = excluded.sort(1).values
        counts = named >= 0
        counts[:, 1:] &= named[:, 1:] != named[:, :-1]
        counts &= ~(scores.gather(1, named.clamp(min=0)) < target_scores)
        ranks -= counts.sum(1)
        ranks[(excluded == targets[:, None]).any(1)] = MISSED
    return ranks


def few_rows(scores: torch.Tensor) -> Iterator[slice]:
    """The rows of ``scores``, :data:`AT_ONCE` values or one row at a time."""
    at_once = AT_ONCE * 64 if scores.is_cuda else AT_ONCE
    rows = max(1, at_once // max(1, scores.shape[1]))
    for first in range(0, len(scores), rows):
        yield slice(first, first + rows)


def recall(ranks: torch.Tensor, k: int) -> torch.Tensor:
    """1 where the target is among the first ``k``, else 0; float64, shape of ``ranks``."""
    return (ranks <= k).double()


def mrr(ranks: torch.Tensor, k: int) -> torch.Tensor:
    """Reciprocal rank where the target is among the first ``k``, else 0."""
    return recall(ranks, k) / ranks


def ndcg(ranks: torch.Tensor, k: int) -> torch.Tensor:
    """Normalised discounted cumulative gain with one relevant item: ``1 / log2(1 + rank)``."""
    return recall(ranks, k) / torch.log2(1.0 + ranks.double())


METRICS = {"recall": recall, "ndcg": ndcg, "mrr": mrr, "hit": recall, "map": mrr}
"""With one relevant item a prediction, hit@k is recall@k and map@k is mrr@k."""
MAIN_METRICS = ("recall", "ndcg", "mrr")


class RankHistogram:
    """How often each rank occurred, by group; all metrics up to ``max_k`` follow from it exactly.

    Integer counts in ``(groups, max_k + 1)`` cells whatever the number of predictions; the order of
    the batches does not matter, and histograms of several workers add up.
    """

    def __init__(self, groups: int, max_k: int):
        self.max_k = max_k
        self.counts = torch.zeros(groups, max_k + 1, dtype=torch.int64)

    def add(self, ranks: torch.Tensor, group: torch.Tensor) -> None:
        """Counts ``ranks``, ``(n,)`` from 1, each in its ``group``, ``(n,)``."""
        # The last cell holds every rank beyond max_k.
        cell = group * (self.max_k + 1) + (ranks - 1).clamp(max=self.max_k)
        counted = torch.bincount(cell.cpu(), minlength=self.counts.numel())
        self.counts += counted.view_as(self.counts)

    def metrics(
        self,
        ks: Sequence[int],
        groups: Iterable[int] | None = None,
        names: Sequence[str] = MAIN_METRICS,
    ) -> dict[str, float]:
        """``name@k`` for each of ``names`` and ``ks``, pooled over ``groups`` (all unless told).

        Raises:
            ValueError: a k beyond ``max_k``.
        """
        if max(ks) > self.max_k:
            raise ValueError(f"k = {max(ks)} is beyond the histogram's max_k = {self.max_k}")
        counts = self.counts if groups is None else self.counts[list(groups)]
        counts = counts.sum(0).double()
        total = counts.sum().clamp(min=1)
        ranks = torch.arange(1, self.max_k + 2)
        return {
            f"{name}@{k}": float((counts * METRICS[name](ranks, k)).sum() / total)
            for name in names
            for k in ks
        }

    def predictions(self, groups: Iterable[int] | None = None) -> int:
        """How many ranks were counted."""
        counts = self.counts if groups is None else self.counts[list(groups)]
        return int(counts.sum())
