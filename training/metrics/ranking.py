"""Full-ranking metrics: where the true next item stands among all candidates.

The rank counts from 1, and every tie counts against the model: a model that gives all items the
same score ranks the target last. A score that is not a number never helps either.
"""

from collections.abc import Iterable, Sequence

import torch


def target_ranks(
    scores: torch.Tensor, targets: torch.Tensor, excluded: torch.Tensor | None = None
) -> torch.Tensor:
    """The rank of each target among the candidates.

    Args:
        scores: ``(batch, num_items)``; higher is better.
        targets: column of the true item, ``(batch,)``.
        excluded: columns that are no candidates, ``(batch, n)``, negative where there is none;
            the target itself always remains one.

    Returns:
        ``(batch,)``, from 1 (best) to the number of candidates.
    """
    target_scores = scores.gather(1, targets[:, None])
    # "Not below" rather than "above": ties and NaN on either side count against the model.
    not_below = ~(scores < target_scores)
    if excluded is not None:
        named = excluded >= 0
        rows = named.nonzero()[:, 0]
        not_below[rows, excluded[named]] = False
        not_below.scatter_(1, targets[:, None], True)
    return not_below.sum(1)


def recall(ranks: torch.Tensor, k: int) -> torch.Tensor:
    """1 where the target is among the first ``k``, else 0; float64, shape of ``ranks``."""
    return (ranks <= k).double()


def mrr(ranks: torch.Tensor, k: int) -> torch.Tensor:
    """Reciprocal rank where the target is among the first ``k``, else 0."""
    return recall(ranks, k) / ranks


def ndcg(ranks: torch.Tensor, k: int) -> torch.Tensor:
    """Normalised discounted cumulative gain with one relevant item: ``1 / log2(1 + rank)``."""
    return recall(ranks, k) / torch.log2(1.0 + ranks.double())


METRICS = {"recall": recall, "ndcg": ndcg, "mrr": mrr}


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

    def metrics(self, ks: Sequence[int], groups: Iterable[int] | None = None) -> dict[str, float]:
        """``recall@k``, ``ndcg@k`` and ``mrr@k`` pooled over ``groups`` (all unless told).

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
            f"{name}@{k}": float((counts * metric(ranks, k)).sum() / total)
            for name, metric in METRICS.items()
            for k in ks
        }

    def predictions(self, groups: Iterable[int] | None = None) -> int:
        """How many ranks were counted."""
        counts = self.counts if groups is None else self.counts[list(groups)]
        return int(counts.sum())
