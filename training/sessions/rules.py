"""Association rules and sequential rules of two items.

Ludewig and Jannach, Evaluation of session-based recommendation algorithms, 2018; Kamehkhosh,
Jannach and Ludewig, A comparison of frequent pattern techniques and a deep learning method for
session-based recommendation, 2017.
"""

import numpy as np

from training.sessions.pairs import PairModel, Pairs
from training.sessions.weighting import by_distance


class RuleModel(PairModel):
    """A rule's strength is its confidence: what its pair counts by the first item's events."""

    def rules(self, weights: np.ndarray, both: bool) -> Pairs:
        """Rules between events of a session, ``weights`` by their distance."""
        confidence = 1 / np.maximum(self.counts.numpy(), 1)
        return Pairs(weights, both, True, confidence, np.ones(self.num_items))


class AssociationRules(RuleModel):
    """Item i, then item j anywhere in the same session."""

    def pairs(self, longest: int) -> Pairs:
        """See :meth:`PairModel.pairs`."""
        return self.rules(np.ones(longest), both=True)


class SequentialRules(RuleModel):
    """Item i, then item j up to ``steps`` events later in the same session."""

    def pairs(self, longest: int) -> Pairs:
        """See :meth:`PairModel.pairs`."""
        settings = self.settings
        reach = min(settings.steps, longest)
        return self.rules(by_distance(settings.weighting, reach), both=False)
