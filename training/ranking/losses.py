"""Losses of click models, from logits: exact however sure the model is."""

import torch
from torch.nn import functional

from training.ranking.settings import ClickSettings


def click_loss(
    logits: torch.Tensor, targets: torch.Tensor, settings: ClickSettings
) -> torch.Tensor:
    """Mean loss in nats of a batch, as ``settings.loss`` names it.

    Args:
        logits: ``(batch,)``.
        targets: 0 or 1, ``(batch,)``, float32.

    Returns:
        A scalar. Weights do not change the divisor, which is the number of rows.
    """
    if settings.loss == "bce":
        return functional.binary_cross_entropy_with_logits(logits, targets)
    each = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    weights = 1 + (settings.positive_weight - 1) * targets
    if settings.loss == "focal":
        # The logit of being wrong about the label; its sigmoid is 1 - p(label). The power is taken
        # of the logarithm: that of a sigmoid which is 0 has no gradient.
        wrong = torch.where(targets > 0, -logits, logits)
        weights = weights * torch.exp(settings.focal_gamma * functional.logsigmoid(wrong))
    return (weights * each).mean()
