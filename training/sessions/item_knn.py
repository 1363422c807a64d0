"""Item-kNN: the items that occur in the same sessions as the last one.

Davidson et al., The YouTube video recommendation system, 2010; with the regularised normalisation
of Hidasi et al., Session-based recommendations with recurrent neural networks, 2016.
"""

import numpy as np

from training.sessions.pairs import PairModel, Pairs
from training.sessions.weighting import by_distance


class ItemKNN(PairModel):
    """Similarity of items i and j: the pairs of their events in the same session, weighted by their
    distance, over ``(n_i + regularisation)^alpha · (n_j + regularisation)^(1 - alpha)``, n being
    their events."""

    def pairs(self, longest: int) -> Pairs:
        """See :meth:`PairModel.pairs`."""
        settings = self.settings
        support = self.counts.numpy() + settings.regularisation
        inverse = 1 / np.maximum(support, 1e-12)  # an item without events has no pairs either
        rows, columns = inverse**settings.alpha, inverse ** (1 - settings.alpha)
        weights = by_distance(settings.weighting, longest)
        return Pairs(weights, both=True, own=False, rows=rows, columns=columns)
