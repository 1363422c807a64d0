"""Users whose interest drifts while they click: the process behind the synthetic session log.

A click depends on a hidden interest ``z`` and on the item before::

    p(item | z, previous) = (1 - f) * base_z(item | not previous) + f * successor(item | previous)

where ``base_z`` is popularity times the interest's affinity to the item's category, brand and
price, and ``f`` is the setting ``follow``. Between two clicks the interest is kept, or with a small
probability drawn anew from the stationary distribution ``pi``; likewise between two sessions of a
user. That chain is stationary, and how long a session is does not depend on it, so a session seen
alone starts with ``z ~ pi``, and a forward filter over the interests gives the exact distribution
of its next item. (Who knows a user's earlier sessions could do a little better.)
"""

from dataclasses import dataclass

import numba
import numpy as np

from pipeline.synthetic.hashing import derive, uniform


@dataclass(frozen=True)
class Catalog:
    """The items, by number 0..items-1 from the most popular on; all arrays ``(items,)``."""

    item_id: np.ndarray
    """The number that is written: seven digits, in no order."""
    category: np.ndarray
    """Category number."""
    brand: np.ndarray
    """Brand number, -1 where the item has none."""
    price: np.ndarray
    """Price in whole cents, int64."""


@dataclass(frozen=True)
class Process:
    """The probabilities of the process."""

    pi: np.ndarray
    """Stationary distribution of interests, ``(interests,)``."""
    base: np.ndarray
    """Item distribution of each interest, ``(interests, items)``."""
    successors: np.ndarray
    """Related items of each item, never itself, ``(items, related)``."""
    successor_weights: np.ndarray
    """Their probabilities, ``(related,)``, falling geometrically."""
    follow: float
    """Probability that a click follows from the item before."""
    drift: float
    """Probability that the interest is drawn anew between two clicks."""


def make_process(
    random: np.random.Generator,
    items: int,
    interests: int,
    categories: int,
    brands: int,
    related: int,
    follow: float,
    drift: float,
) -> tuple[Catalog, Process]:
    """Draws a catalogue and the process over it."""
    popularity = (np.arange(items) + 5.0) ** -0.8
    category = random.integers(0, categories, items)
    brand = np.where(random.random(items) < 0.1, -1, random.integers(0, brands, items))
    level = random.normal(0, 0.7, categories)[category] + random.normal(0, 0.6, items)
    catalog = Catalog(
        item_id=random.choice(9_000_000, items, replace=False) + 1_000_000,
        category=category,
        brand=brand,
        price=np.round(100 * np.exp(3.5 + level)).astype(np.int64),
    )
    pi = random.dirichlet(np.full(interests, 5.0))
    # Each interest is at home in a few categories and likes a few brands and a price.
    home = np.zeros((interests, categories))
    for row in home:
        row[random.choice(categories, min(3, categories), replace=False)] = (5.0, 4.0, 3.5)[
            :categories
        ]
    liking = random.normal(0, 1.0, (interests, brands + 1))
    taste = random.normal(0, 0.8, (interests, 1))
    logit = np.log(popularity) + home[:, category] + liking[:, brand]
    logit = logit - 0.5 * (level - taste) ** 2
    base = np.exp(logit - logit.max(axis=1, keepdims=True))
    base /= base.sum(axis=1, keepdims=True)
    weights = 0.75 ** np.arange(related)
    process = Process(
        pi=pi,
        base=base,
        successors=_successors(random, category, popularity, related),
        successor_weights=weights / weights.sum(),
        follow=follow,
        drift=drift,
    )
    return catalog, process


def _successors(
    random: np.random.Generator, category: np.ndarray, popularity: np.ndarray, related: int
) -> np.ndarray:
    """Related items of each item: four in five from its category, by popularity, never itself."""
    items = len(category)
    successors = np.empty((items, related), np.int64)
    members = [np.flatnonzero(category == number) for number in range(category.max() + 1)]
    keys = np.log(popularity)
    for item in range(items):
        chosen: list[int] = []
        same = members[category[item]]
        own = _sample(random, same[same != item], keys, int(np.ceil(0.8 * related)))
        chosen.extend(own)
        rest = np.setdiff1d(np.arange(items), [*chosen, item])
        chosen.extend(_sample(random, rest, keys, related - len(chosen)))
        successors[item] = random.permutation(chosen)
    return successors


def _sample(
    random: np.random.Generator, among: np.ndarray, keys: np.ndarray, count: int
) -> np.ndarray:
    """``count`` of ``among`` without replacement, proportional to exp(keys) (Gumbel top-k)."""
    noisy = keys[among] + random.gumbel(size=len(among))
    return among[np.argsort(-noisy)[:count]]


@numba.njit(cache=True)
def draw_sessions(
    key, first, starts, user_interest, user_free, lengths, switch, drift, follow, pi_sum, base_sum,
    successors, successor_sum, items, times, users,
):  # fmt: skip
    """Draws the sessions ``first, first+1, ...`` in order of their start.

    Args:
        key: seed of all draws.
        starts: start of each session, unix seconds, ascending, ``(sessions,)``.
        user_interest, user_free: each user's last interest (-1 for none yet) and the time from
            which the user may start again, ``(users,)``; updated.
        lengths: clicks of each session, ``(sessions,)``.
        switch, drift, follow: probability of a new interest between sessions, between clicks, and
            of following the item before.
        pi_sum, base_sum, successor_sum: running sums of the distributions of :class:`Process`.
        items, times: filled, ``(sum of lengths,)``.
        users: filled, ``(sessions,)``.
    """
    at = 0
    for s in range(len(starts)):
        session_key = derive(key, first + s)
        user = _free_user(session_key, starts[s], user_free)
        users[s] = user
        z = user_interest[user]
        if z < 0 or uniform(session_key, 0) < switch:
            z = _pick(pi_sum, uniform(session_key, 1))
        time = starts[s]
        previous = -1
        for step in range(lengths[s]):
            step_key = derive(session_key, 1000 + step)
            if step > 0:
                if uniform(step_key, 0) < drift:
                    z = _pick(pi_sum, uniform(step_key, 1))
                time += _gap(step_key)
            if step > 0 and uniform(step_key, 2) < follow:
                item = successors[previous, _pick(successor_sum, uniform(step_key, 3))]
            else:
                # Drawing again until it is another item is drawing from base_z without it.
                attempt = 10
                item = _pick(base_sum[z], uniform(step_key, attempt))
                while item == previous:
                    attempt += 1
                    item = _pick(base_sum[z], uniform(step_key, attempt))
            items[at], times[at] = item, time
            previous = item
            at += 1
        user_interest[user] = z
        # Longer than any usual idle gap, so sessions can also be told apart by user and time.
        user_free[user] = time + 3600


@numba.njit(cache=True)
def _free_user(key, start, user_free):
    """A user who is not in a session; some users come far more often than others."""
    count = len(user_free)
    for attempt in range(100):
        user = int(count * uniform(key, 100 + attempt) ** 1.5)
        if user_free[user] <= start:
            return user
    for user in range(count):
        if user_free[user] <= start:
            return user
    return -1


@numba.njit(cache=True)
def _pick(running_sum, u):
    """Index drawn from a distribution given by its running sum."""
    return min(np.searchsorted(running_sum, u, side="right"), len(running_sum) - 1)


@numba.njit(cache=True)
def _gap(key):
    """Seconds between two clicks: a minute as a rule, at least 1, at most 20 minutes."""
    return 1 + min(int(-60.0 * np.log(1.0 - uniform(key, 4))), 1199)


@numba.njit(cache=True)
def filter_interests(items, lengths, pi, base, followed, follow, drift):
    """Distribution of the interest behind the *next* click, after each click of each session.

    Args:
        items: item numbers, sessions one after another, ``(clicks,)``.
        lengths: clicks of each session, ``(sessions,)``.
        pi, base, follow, drift: as in :class:`Process`.
        followed: successor probability of each click given the one before it, ``(clicks,)``.

    Returns:
        ``(clicks, interests)``, rows summing to 1.
    """
    interests = len(pi)
    after = np.empty((len(items), interests))
    at = 0
    for length in lengths:
        belief = pi.copy()
        for step in range(length):
            item = items[at]
            total = 0.0
            for z in range(interests):
                likelihood = base[z, item]
                if step > 0:
                    likelihood *= (1.0 - follow) / (1.0 - base[z, items[at - 1]])
                    likelihood += follow * followed[at]
                belief[z] *= likelihood
                total += belief[z]
            for z in range(interests):
                belief[z] = (1.0 - drift) * belief[z] / total + drift * pi[z]
            after[at] = belief
            at += 1
    return after


def predictive(process: Process, belief: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Exact distribution of the next item.

    Args:
        process: the process.
        belief: interest behind the next click, ``(n, interests)``.
        previous: the last item seen, ``(n,)``.

    Returns:
        ``(n, items)``; rows sum to 1, and the previous item has 0.
    """
    weights = (1 - process.follow) * belief / (1 - process.base[:, previous].T)
    probability = weights @ process.base
    rows = np.arange(len(previous))
    probability[rows, previous] = 0.0
    related = process.successors[previous]
    # One item's successors are distinct, so no index is met twice in a row.
    probability[rows[:, None], related] += process.follow * process.successor_weights
    return probability


def successor_probability(process: Process, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Probability of each click under the successors of the click before, ``(clicks,)``."""
    previous = np.roll(items, 1)
    probability = (process.successors[previous] == items[:, None]) @ process.successor_weights
    probability[np.concatenate([[0], np.cumsum(lengths)[:-1]])] = 0.0
    return probability
