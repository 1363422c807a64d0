"""A second implementation of the evaluation of sessions: one step at a time, by sorting.

It shares nothing with the package but the numbers of the reserved codes. Slow and plain.
"""

import math
from collections import Counter

import numpy as np

BOUNDS = {"2": (2, 2), "3-5": (3, 5), "6-10": (6, 10), "11-20": (11, 20), "21+": (21, 10**9)}


def outcomes(score, sessions, settings, items):
    """One dict a step: the rank of the true next item (None: never), the list, and whose it is.

    ``score(prefix)`` gives ``(items,)``, of which the first three mean nothing.
    """
    found = []
    for number, given in enumerate(sessions):
        events = [(item, place == len(given) - 1) for place, item in enumerate(given)]
        events = [event for event in events if event[0] >= 3]
        if settings.drop_repeats:
            kept = []
            for event in events:
                if not kept or kept[-1][0] != event[0]:
                    kept.append(event)
            events = kept
        for step in range(1, len(events)):
            target, closing = events[step]
            is_last = step == len(events) - 1
            if settings.protocol == "last_item" and not is_last:
                continue
            if settings.protocol == "leave_one_out" and not closing:
                continue
            prefix = [item for item, _ in events[:step]]
            barred = set(prefix) if settings.exclude_seen else set()
            if settings.exclude_last_item and settings.drop_repeats:
                barred.add(prefix[-1])
            scores = score(prefix)
            candidates = [item for item in range(3, items) if item not in barred]
            found.append(
                {
                    "session": number,
                    "length": len(events),
                    "target": target,
                    "rank": _rank(scores, candidates, target),
                    "list": _list(scores, candidates, max(settings.ks)),
                }
            )
    return found


def _rank(scores, candidates, target):
    """The place of the target in the worst order that the scores allow."""
    if target not in candidates:
        return None

    def place(item):
        score = scores[item]
        if math.isnan(score):
            score = -math.inf if item == target else math.inf
        elif math.isnan(scores[target]) and item != target:
            score = math.inf
        return (-score, item == target)

    return sorted(candidates, key=place).index(target) + 1


def _list(scores, candidates, k):
    scored = [item for item in candidates if scores[item] > -math.inf]
    return sorted(scored, key=lambda item: (-scores[item], item))[:k]


def metrics(steps, ks):
    """Each metric at each k, averaged over steps."""
    found = {}
    for k in ks:
        ranks = [s["rank"] if s["rank"] is not None and s["rank"] <= k else None for s in steps]
        hits = [rank is not None for rank in ranks]
        found[f"recall@{k}"] = found[f"hit@{k}"] = np.mean(hits)
        found[f"ndcg@{k}"] = np.mean([1 / math.log2(1 + r) if r else 0.0 for r in ranks])
        found[f"mrr@{k}"] = found[f"map@{k}"] = np.mean([1 / r if r else 0.0 for r in ranks])
    return found


def by_session_length(steps, ks):
    groups = {
        name: [step for step in steps if low <= step["length"] <= high]
        for name, (low, high) in BOUNDS.items()
    }
    return {
        name: {**metrics(group, ks), "predictions": len(group)}
        for name, group in groups.items()
        if group
    }


def by_popularity(steps, ks, counts):
    """``counts``: training events by code."""
    names = _popularity_names(counts)
    found = {}
    for name in ("head", "mid", "tail"):
        group = [step for step in steps if names[step["target"]] == name]
        if group:
            items = sum(mine == name for mine in names.values())
            found[name] = {**metrics(group, ks), "predictions": len(group), "items": items}
    return found


def _popularity_names(counts):
    items = range(3, len(counts))
    total = sum(counts[item] for item in items)
    names = {}
    for item in items:
        more = sum(counts[other] for other in items if counts[other] > counts[item]) / total
        names[item] = "head" if more < 0.2 else "mid" if more < 0.8 else "tail"
    return names


def of_lists(steps, ks, counts):
    """Coverage, popularity, its bias, and novelty of the first k of each list."""
    items = range(3, len(counts))
    total = sum(counts[item] for item in items)
    chosen = np.mean([counts[step["target"]] / total for step in steps])
    found = {}
    for k in ks:
        listed = Counter(item for step in steps for item in step["list"][:k])
        each = list(listed.elements())
        found[f"coverage@{k}"] = len(listed) / len(items)
        found[f"popularity@{k}"] = np.mean([counts[item] / total for item in each])
        found[f"popularity_bias@{k}"] = found[f"popularity@{k}"] / chosen
        found[f"novelty@{k}"] = np.mean([-math.log2(max(1, counts[i]) / total) for i in each])
    return found


def standard_error(steps, name, k):
    """Of one metric, from the residuals of each session's total."""
    per_session = {}
    for step in steps:
        per_session.setdefault(step["session"], []).append(step)
    mean = metrics(steps, [k])[f"{name}@{k}"]
    residuals = [
        len(mine) * (metrics(mine, [k])[f"{name}@{k}"] - mean) for mine in per_session.values()
    ]
    n = len(residuals)
    return math.sqrt(n / (n - 1) * sum(residual**2 for residual in residuals)) / len(steps)
