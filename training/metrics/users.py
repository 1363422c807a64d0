"""Full-ranking metrics where a user has several relevant items."""

from collections.abc import Sequence

import torch


class UserMetrics:
    """Pools recall@k and ndcg@k over users, each user counting once.

    Liang et al., "Variational autoencoders for collaborative filtering", 2018: recall@k is the
    share of the first k that is relevant, of as many as could be (k, or the relevant items where
    they are fewer); ndcg@k the discounted gain over that of the best order. Ties count against
    the model, as in ``training.metrics.ranking``.
    """

    def __init__(self, ks: Sequence[int]) -> None:
        self.ks = tuple(ks)
        self._sums = {f"{name}@{k}": 0.0 for name in ("recall", "ndcg") for k in ks}
        self.users = 0

    def add(self, scores: torch.Tensor, relevant: torch.Tensor) -> None:
        """Adds users.

        Args:
            scores: ``(users, items)``; -inf for items that are no candidates.
            relevant: of the same shape, 0 or 1; each row has a 1.
        """
        most = min(max(self.ks), scores.shape[1])
        # Among equal scores the items that are not relevant come first.
        first = torch.argsort(relevant, dim=1, stable=True)
        order = torch.argsort(scores.gather(1, first), dim=1, descending=True, stable=True)
        hits = relevant.gather(1, first.gather(1, order[:, :most])).double()
        discounts = 1 / torch.log2(torch.arange(2, most + 2, dtype=torch.float64))
        discounts = discounts.to(hits.device)
        best = discounts.cumsum(0)
        counts = relevant.sum(1).long()
        for k in self.ks:
            k_hits = hits[:, :k]
            possible = counts.clamp(max=min(k, most))
            self._sums[f"recall@{k}"] += float((k_hits.sum(1) / possible).sum())
            gains = (k_hits * discounts[:k]).sum(1) / best[possible - 1]
            self._sums[f"ndcg@{k}"] += float(gains.sum())
        self.users += len(scores)

    def compute(self) -> dict[str, float | None]:
        """Means over all users so far; None before the first."""
        if not self.users:
            return dict.fromkeys(self._sums)
        return {name: total / self.users for name, total in self._sums.items()}
