"""Loops over pairs of items and over similar sessions: one pass each, memory of one row."""

import numpy as np

from core.compiled import compiled


@compiled
def strongest_pairs(
    items, offsets, session_of, events, event_offsets, first, last, weights, both, own, rows,
    columns, kept, neighbours, strengths, found,
):  # fmt: skip
    """The ``kept`` strongest partners of the items ``first`` to ``last``.

    The strength of a pair is the sum of ``weights[distance - 1]`` over its places in the sessions,
    times ``rows[item] * columns[partner]``; of equal ones the lower code comes first.

    Args:
        items, offsets: sessions one after another, ``(events,)``, ``(sessions + 1,)``.
        session_of: session of each event, ``(events,)``.
        events, event_offsets: the events of each item, ``(events,)``, ``(num_items + 1,)``.
        weights: by distance, ``(distances,)``; pairs further apart do not count.
        both: whether partners before the item count as well as those after it.
        own: whether an item can be its own partner.
        neighbours, strengths: filled, ``(last - first, kept)``.
        found: filled with how many each item has, ``(last - first,)``.
    """
    sums = np.zeros(len(rows))
    partners = np.empty(len(rows), np.int32)
    for item in range(first, last):
        met = 0
        for at in range(event_offsets[item], event_offsets[item + 1]):
            event = events[at]
            session = session_of[event]
            low = event + 1
            if both:
                low = max(offsets[session], event - len(weights))
            for other in range(low, min(offsets[session + 1], event + len(weights) + 1)):
                partner = items[other]
                if other == event or (partner == item and not own):
                    continue
                weight = weights[abs(other - event) - 1]
                if weight <= 0:
                    continue
                if sums[partner] == 0:
                    partners[met] = partner
                    met += 1
                sums[partner] += weight
        ordered = np.sort(partners[:met])
        values = np.empty(met)
        for i in range(met):
            values[i] = -sums[ordered[i]] * rows[item] * columns[ordered[i]]
            sums[ordered[i]] = 0
        best = np.argsort(values, kind="mergesort")[:kept]
        found[item - first] = len(best)
        for i in range(len(best)):
            neighbours[item - first, i] = ordered[best[i]]
            strengths[item - first, i] = -values[best[i]]


@compiled
def add_partners(prefixes, weights, offsets, neighbours, strengths, scores):
    """Adds to ``scores`` the strengths of the partners of each prefix's events.

    Args:
        prefixes: ``(batch, width)`` codes, zeros after the last event.
        weights: by distance from the last event, ``(at least width,)``; a 0 ends the walk back.
        offsets, neighbours, strengths: the partners of each item.
        scores: ``(batch, num_items)``, changed.
    """
    for row in range(len(prefixes)):
        length = prefixes.shape[1]
        while length and prefixes[row, length - 1] == 0:
            length -= 1
        for back in range(length):
            if weights[back] == 0:
                break
            item = prefixes[row, length - 1 - back]
            for at in range(offsets[item], offsets[item + 1]):
                scores[row, neighbours[at]] += weights[back] * strengths[at]


@compiled
def add_similar_sessions(
    prefixes, place_weights, step_weights, item_weights, items, offsets, session_weights, holding,
    holding_offsets, sample_size, k, closeness, earlier, scores,
):  # fmt: skip
    """Adds to ``scores`` what the ``k`` sessions most similar to each prefix hold.

    Of the sessions that share an item with the prefix the ``sample_size`` latest are compared; a
    session's similarity is the sum of the place weights of the shared items, times its own weight.
    Of equally similar ones the later is taken.

    Args:
        prefixes: ``(batch, width)`` codes, zeros after the last event.
        place_weights: row n: of the places of a prefix of n events.
        step_weights: by how many events ago the prefix last saw an item of the neighbour.
        item_weights: what an item's score is multiplied by, ``(num_items,)``.
        items, offsets: the different items of each session in the order in which it saw them last,
            sessions from the oldest on.
        session_weights: ``(sessions,)``.
        holding, holding_offsets: the sessions that hold each item, from the latest on.
        closeness, earlier: what an item of a neighbour counts by how far it stands from the last
            shared one, for each event more, and if it stands before it.
        scores: ``(batch, num_items)``, changed.
    """
    sessions = len(offsets) - 1
    similarity = np.zeros(sessions)
    step = np.zeros(sessions, np.int32)
    shared = np.empty(sessions, np.int32)
    touched = np.empty(sessions, np.int64)
    for row in range(len(prefixes)):
        length = prefixes.shape[1]
        while length and prefixes[row, length - 1] == 0:
            length -= 1
        met = 0
        for place in range(length - 1, -1, -1):
            item = prefixes[row, place]
            repeated = False
            for later in range(place + 1, length):
                repeated |= prefixes[row, later] == item
            if repeated:
                continue
            for at in range(holding_offsets[item], holding_offsets[item + 1]):
                session = holding[at]
                if step[session] == 0:
                    step[session] = length - place
                    shared[session] = item
                    touched[met] = session
                    met += 1
                similarity[session] += place_weights[length, place]
        candidates = np.sort(touched[:met])[::-1][:sample_size].copy()
        values = np.empty(len(candidates))
        for i in range(len(candidates)):
            values[i] = -similarity[candidates[i]] * session_weights[candidates[i]]
        best = np.argsort(values, kind="mergesort")[:k]
        for i in range(len(best)):
            session = candidates[best[i]]
            weight = -values[best[i]] * step_weights[step[session] - 1]
            if weight <= 0:
                continue
            middle = offsets[session]
            while items[middle] != shared[session]:
                middle += 1
            for at in range(offsets[session], offsets[session + 1]):
                near = closeness ** (abs(at - middle) - 1.0)
                if at < middle:
                    near *= earlier
                scores[row, items[at]] += weight * near * item_weights[items[at]]
        for i in range(met):
            similarity[touched[i]] = 0
            step[touched[i]] = 0
