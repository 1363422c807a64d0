"""Which metrics are shown first, which of them a model is judged by, and what they mean."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from training.sessions.settings import shown_length

CLICK_METRICS = ("auc", "logloss")
RANK_METRICS = ("recall", "ndcg", "mrr")
RATING_METRICS = ("rmse",)
BETTER_LOW = ("logloss", "normalized_entropy", "rmse", "mae")
"""Metrics of which less is better."""
MEANINGS: Mapping[str, tuple[str, str]] = {
    "auc": ("higher", "how often a click is scored above a row without one; 0.5 is chance"),
    "logloss": ("lower", "mean surprise of the labels in nats"),
    "normalized_entropy": ("lower", "logloss over that of always saying the split's mean; below 1"
                           " is better than that"),
    "accuracy": ("higher", "share of rows on the right side of a probability of one half; that of"
                 " the commoner label needs no model"),
    "calibration": ("1", "expected clicks over clicks; above 1 too many are expected"),
    "recall": ("higher", "share of the next, or held-out, items among the first k"),
    "ndcg": ("higher", "as recall, but an item counts less by the logarithm of its rank"),
    "mrr": ("higher", "one over the rank of the next item, 0 beyond k"),
    "hit": ("higher", "the same as recall"),
    "map": ("higher", "the same as mrr"),
    "coverage": ("higher", "share of all items that are in some list"),
    "popularity": ("", "mean share of the training events that a listed item has"),
    "popularity_bias": ("1", "popularity of the lists over that of the next items; above 1: too"
                        " popular"),
    "novelty": ("", "mean surprise of a listed item in bits"),
    "rmse": ("lower", "root of the mean squared error of a rating"),
    "mae": ("lower", "mean absolute error of a rating"),
}  # fmt: skip
"""By metric without its @k: which way is better (1: at 1), and what it is."""
SAME = {"hit": "recall", "map": "mrr"}
"""Metrics that are others under another name, where each prediction has one right answer."""
SHARES = {
    "auc": "auc: how much of the way from 0.5 to the best possible",
    "logloss": "logloss: how much of the way from always saying the split's mean to the best "
    "possible",
    "": "recall, ndcg and mrr: how much of the best possible, from 0",
}
"""What a share of the best possible is, by metric."""


LEAST_DIFFERENCE = 5e-4
"""Differences between metrics below this are not named."""


def headlines(metrics: Iterable[str]) -> list[str]:
    """Of the metrics there are, those that matter most: at one length of list."""
    names = list(metrics)
    others = [name for name in (*CLICK_METRICS, *RATING_METRICS) if name in names]
    ks = [int(k) for name in names for kind, at, k in [name.partition("@")] if at and k.isdecimal()
          and kind in MEANINGS]  # fmt: skip
    if ks:
        at = f"@{shown_length(ks)}"
        first = [name + at for name in RANK_METRICS if name + at in names]
        return [*(first or [name for name in names if name.endswith(at)]), *others]
    return others


def shown(metrics: Mapping[str, Any]) -> list[str]:
    """The metrics of an evaluation that its table shows, each number once."""
    first = ("recall", "ndcg", "mrr", "hit", "map")
    kinds = (*CLICK_METRICS, "normalized_entropy", "accuracy", "calibration", "rmse", "mae")
    ranks = [name for name in metrics if name.partition("@")[0] in MEANINGS and "@" in name]
    order = [*first, *(kind for kind in MEANINGS if kind not in first)]
    ranks.sort(key=lambda name: order.index(name.partition("@")[0]))
    ranks = once(ranks)
    return [*(name for name in kinds if name in metrics), *ranks]


def once(names: Sequence[str]) -> list[str]:
    """Names of metrics without those of the same number as another: with one right answer hit is
    recall and map is mrr, and in a list of one item all of them are recall."""
    kept = []
    for name in names:
        kind, at, k = name.partition("@")
        same = dict(SAME)
        if k == "1":
            same |= dict.fromkeys(("ndcg", "mrr", "map"), "recall")
        if f"{same.get(kind)}{at}{k}" not in names:
            kept.append(name)
    return kept


def meaning(name: str) -> tuple[str, str]:
    """Which way is better (``higher``, ``lower``, ``1``: at 1, or neither), and what it is."""
    return MEANINGS.get(name.partition("@")[0], ("", ""))


def meanings(names: Iterable[str]) -> list[str]:
    """A line for each kind of metric: what it is, and which way is better."""
    lines = []
    for kind in dict.fromkeys(name.partition("@")[0] for name in names):
        better, what = meaning(kind)
        way = {"": "", "1": " (best at 1)"}.get(better, f" ({better} is better)")
        lines.append(f"{kind}{way}: {what}")
    return lines


def worse(name: str, value: float, other: float) -> bool:
    """Whether ``value`` of a metric is worse than ``other``, by more than is printed."""
    difference = value - other if name.partition("@")[0] in BETTER_LOW else other - value
    return difference > LEAST_DIFFERENCE


def share_meanings(names: Iterable[str]) -> str:
    """What the shares of the best possible of these metrics are, in a sentence."""
    keys = dict.fromkeys(name if name in SHARES else "" for name in names)
    return "Share of best, " + "; ".join(SHARES[key] for key in keys) + "."
