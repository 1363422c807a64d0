"""Losses of next-item models, from the scores of the targets and of what they are compared with.

Scores of minus infinity stand for items that are no candidates there: the target itself among drawn
items, and the item just viewed.
"""

import torch
from torch.nn import functional


def cross_entropy(
    scores: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Softmax cross-entropy over all items.

    Args:
        scores: ``(steps, items)``.
        targets: column of the true item, ``(steps,)``.
        label_smoothing: share of the target's probability that is spread over the candidates.

    Returns:
        The loss of each step, ``(steps,)``.
    """
    if not label_smoothing:
        return functional.cross_entropy(scores, targets, reduction="none")
    total = scores.logsumexp(1)
    losses = total - scores.gather(1, targets[:, None]).squeeze(1)
    return (1 - label_smoothing) * losses + label_smoothing * (total - _mean_candidate(scores))


def sampled_softmax(
    positive: torch.Tensor, negative: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Softmax cross-entropy of the target against drawn items (Jean et al. 2015).

    Args:
        positive: score of the target, ``(steps,)``.
        negative: scores of the drawn items, ``(steps, negatives)``. For the log-q correction
            they have had the log of the expected number of draws of their item taken off.
        label_smoothing: as in :func:`cross_entropy`, over the target and the drawn items.

    Returns:
        ``(steps,)``.
    """
    scores = torch.cat([positive[:, None], negative], 1)
    first = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    return cross_entropy(scores, first, label_smoothing)


def gbce_beta(sampling_rate: float, t: float) -> float:
    """The power of the positive's probability in generalised binary cross-entropy.

    Args:
        sampling_rate: negatives a target, as a share of all items that could be drawn.
        t: calibration, 0 to 1.
    """
    return sampling_rate * (t * (1 - 1 / sampling_rate) + 1 / sampling_rate)


def gbce(positive: torch.Tensor, negative: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
    """Generalised binary cross-entropy (Petrov & Macdonald, gSASRec, RecSys 2023).

    ``-(beta · log σ(positive) + Σ log(1 - σ(negative)))``; with beta 1 it is the plain one.

    Args:
        positive, negative: scores ``(steps,)`` and ``(steps, negatives)``.

    Returns:
        ``(steps,)``, divided by the number of scores, so that rates need not change with it.
    """
    of_negatives = functional.softplus(negative).sum(1)
    return (beta * functional.softplus(-positive) + of_negatives) / (1 + negative.shape[1])


def bpr_max(positive: torch.Tensor, negative: torch.Tensor, penalty: float) -> torch.Tensor:
    """BPR-max (Hidasi & Karatzoglou, CIKM 2018).

    ``-log Σ s_j σ(positive - negative_j) + penalty · Σ s_j negative_j²`` with s the softmax of the
    negatives.

    Args:
        positive, negative: scores ``(steps,)`` and ``(steps, negatives)``.

    Returns:
        ``(steps,)``; 0 where no negative is a candidate.
    """
    known = negative > -torch.inf
    # Where nothing is a candidate the softmax is not defined: such rows get finite scores instead.
    some = known.any(1, keepdim=True)
    scores = negative.masked_fill(~known, -torch.inf).masked_fill(~some, 0.0)
    weights = scores.log_softmax(1)
    finite = negative.masked_fill(~known, 0.0)
    won = functional.logsigmoid(positive[:, None] - finite)
    losses = -(weights + won).logsumexp(1) + penalty * (weights.exp() * finite**2).sum(1)
    return losses.where(some.squeeze(1), 0.0)


def _mean_candidate(scores: torch.Tensor) -> torch.Tensor:
    """The mean score of the candidates of each row, ``(steps,)``."""
    candidates = scores > -torch.inf
    return scores.masked_fill(~candidates, 0.0).sum(1) / candidates.sum(1)
