"""What the recommended lists hold: coverage, popularity and novelty, from exact counts."""

from collections.abc import Sequence

import torch

from training.metrics.ranking import few_rows

LAST = 2**32 - 1
POPULARITY_GROUPS = {"head": 0.2, "mid": 0.8, "tail": None}
"""Groups of items by popularity: name, and share of the training events before which one begins."""
GROUP = 64


def top_items(scores: torch.Tensor, k: int, excluded: torch.Tensor | None = None) -> torch.Tensor:
    """The recommended lists: columns by falling score, the lower column first where scores tie.

    Args:
        scores: ``(batch, num_items)``; NaN and -inf are never listed.
        k: length of a list.
        excluded: columns that are not listed, ``(batch, n)``, negative where there is none.

    Returns:
        ``(batch, k)`` columns, -1 after the end of a list that is shorter.
    """
    best = torch.full((len(scores), k), -1, device=scores.device)
    for rows in few_rows(scores):
        barred = None if excluded is None else excluded[rows]
        found = _top(_in_groups(scores[rows], barred), k)
        best[rows, : found.shape[1]] = found
    return best


def _in_groups(scores: torch.Tensor, excluded: torch.Tensor | None) -> torch.Tensor:
    """A copy as ``(batch, groups, GROUP)`` in which all that is not listed is -inf."""
    batch, items = scores.shape
    groups = -(-items // GROUP)
    copy = scores.new_empty(batch, groups * GROUP, dtype=torch.float32)
    copy[:, :items] = scores
    copy[:, items:] = -torch.inf
    if excluded is not None:
        named = excluded >= 0
        copy[named.nonzero()[:, 0], excluded[named]] = -torch.inf
    copy = copy.view(batch, groups, GROUP)
    if copy.amax(2).isnan().any():
        copy.masked_fill_(copy.isnan(), -torch.inf)
    return copy


def _top(scores: torch.Tensor, k: int) -> torch.Tensor:
    """The first ``k`` columns, or all where there are fewer, -1 for what is -inf.

    The best k are in the k groups whose best are best, so all but those are passed over.
    """
    groups = _first(scores.amax(2), k)
    within = torch.arange(GROUP, device=scores.device)
    # In the order of their columns, so that the first of equals is the lowest.
    groups = groups.sort(1).values
    columns = (groups[:, :, None] * GROUP + within).flatten(1)
    values = scores.flatten(1).gather(1, columns)
    best = _first(values, k)
    return columns.gather(1, best).where(values.gather(1, best) > -torch.inf, -1)


def _first(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Indices of the ``k`` largest in each row by falling score, the lower one first of equals."""
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: zero has one sign
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    columns = torch.arange(scores.shape[1], device=scores.device)
    keys = (ordered << 32) | (LAST - columns)  # no two of a row are equal
    best = keys.topk(min(k, scores.shape[1]), dim=1).values
    return LAST - (best & LAST)


def self_information(counts: torch.Tensor) -> torch.Tensor:
    """Bits that it tells to see an item drawn by ``counts``, ``(num_items,)``; an item that was
    never counted is taken for one that was counted once."""
    return -(counts.clamp(min=1).double() / counts.sum().clamp(min=1)).log2()


def popularity_groups(counts: torch.Tensor) -> torch.Tensor:
    """The index into :data:`POPULARITY_GROUPS` of each item, ``(num_items,)``.

    Args:
        counts: training events of each item, ``(num_items,)``. The groups cut the events, not the
            items: head are the most frequent items that make up the first fifth of all events, tail
            those of the last fifth (Abdollahpouri, Burke, Mobasher, Managing popularity bias in
            recommender systems with personalized re-ranking, 2019). Items of equal counts are in
            one group, that of the first of them.
    """
    values, which, items = counts.unique(return_inverse=True, return_counts=True)
    events = values * items
    before = events.sum() - events.cumsum(0)
    bounds = torch.tensor([share for share in POPULARITY_GROUPS.values() if share is not None])
    shares = before.double() / events.sum().clamp(min=1)
    return torch.bucketize(shares, bounds.double(), right=True)[which]


class ListCounts:
    """How often each item stood in a list of each length.

    Integers, ``(len(ks), num_items)``: the order of the batches does not matter, and counts of
    several workers add up.
    """

    def __init__(self, ks: Sequence[int], num_items: int):
        self.ks = tuple(ks)
        self.counts = torch.zeros(len(self.ks), num_items, dtype=torch.int64)

    def add(self, lists: torch.Tensor) -> None:
        """Takes lists as :func:`top_items` gives them, ``(batch, max(ks))``."""
        lists = lists.cpu()
        for counts, k in zip(self.counts, self.ks, strict=True):
            listed = lists[:, :k]
            listed = listed[listed >= 0]
            counts.index_add_(0, listed, torch.ones_like(listed))

    def coverage(self) -> dict[str, float]:
        """``coverage@k``: the share of all items that stand in at least one list of length k
        (catalogue coverage: Ge, Delgado-Battenfeld, Jannach, Beyond accuracy, RecSys 2010)."""
        shares = (self.counts > 0).double().mean(1).tolist()
        return {f"coverage@{k}": share for k, share in zip(self.ks, shares, strict=True)}

    def popularity(self, counts: torch.Tensor) -> dict[str, float]:
        """How common the listed items were in training.

        Args:
            counts: training events of each item, ``(num_items,)``.

        Returns:
            ``popularity@k``: mean share of the training events that a listed item has (average
            recommendation popularity: Yin et al., Challenging the long tail recommendation, VLDB
            2012); ``novelty@k``: mean self-information of a listed item in bits (Zhou et al.,
            Solving the apparent diversity-accuracy dilemma, PNAS 2010).
        """
        shares = counts.double() / counts.sum().clamp(min=1)
        listed = self.counts.sum(1).clamp(min=1)
        told = torch.stack([shares, self_information(counts)], 1)
        means = self.counts.double() @ told / listed[:, None]
        found = {}
        for k, (share, bits) in zip(self.ks, means.tolist(), strict=True):
            found |= {f"popularity@{k}": share, f"novelty@{k}": bits}
        return found
