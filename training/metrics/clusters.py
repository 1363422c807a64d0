"""How sure a mean over predictions is, where those of one session or user hang together."""

from statistics import NormalDist

import torch


class ClusteredMeans:
    """Means over all predictions with standard errors by cluster.

    Predictions of one session are no independent draws, so what is drawn is the session: the mean
    is the ratio of two totals over sessions, and its variance that of a ratio estimator (Cochran,
    Sampling Techniques, 1977, ch. 6), which is the cluster-robust one of a mean (Cameron, Miller,
    A practitioner's guide to cluster-robust inference, 2015):

        n / (n - 1) * sum over sessions of (total - mean * size)² / (sum of sizes)²

    Six sums hold all of it: whatever the order of the sessions, and sums of workers add up.
    """

    def __init__(self, width: int):
        self.width = width
        self.sums = torch.zeros(3 * width + 3, dtype=torch.float64)

    def add(self, values: torch.Tensor, clusters: torch.Tensor) -> None:
        """Takes ``values``, ``(predictions, width)``, each from 0 to 1, and the cluster of each,
        ``(predictions,)``.

        All predictions of a cluster have to be given in one call; numbers of clusters mean nothing
        beyond it.
        """
        if not len(values):
            return
        clusters = clusters.cpu()
        sizes = torch.bincount(clusters).double()
        totals = torch.zeros(len(sizes), self.width, dtype=torch.float64)
        totals.index_add_(0, clusters, values.double().cpu())
        sizes, totals = sizes[sizes > 0], totals[sizes > 0]
        self.sums += torch.cat(
            [
                torch.stack([torch.tensor(float(len(sizes))), sizes.sum(), sizes.square().sum()]),
                totals.sum(0),
                totals.square().sum(0),
                (totals * sizes[:, None]).sum(0),
            ]
        )

    @property
    def clusters(self) -> int:
        """How many were counted."""
        return int(self.sums[0])

    def intervals(self, confidence: float) -> list[dict[str, float]] | None:
        """For each value ``standard_error`` and the ends ``low`` and ``high`` of the interval that
        holds the true mean with probability ``confidence``: by the normal distribution, and no
        further than the mean itself can lie, 0 to 1.

        None with fewer than two clusters, of which nothing can be said.
        """
        if self.clusters < 2:
            return None
        (clusters, size, squares), rest = self.sums[:3], self.sums[3:]
        totals, totals_squared, with_size = rest.view(3, self.width)
        means = totals / size
        spread = totals_squared - 2 * means * with_size + means.square() * squares
        errors = (clusters / (clusters - 1) * spread.clamp(min=0)).sqrt() / size
        away = NormalDist().inv_cdf((1 + confidence) / 2) * errors
        low, high = ((means + side * away).clamp(0, 1) for side in (-1, 1))
        ends = torch.stack([errors, low, high], 1).tolist()
        return [dict(zip(("standard_error", "low", "high"), row, strict=True)) for row in ends]
