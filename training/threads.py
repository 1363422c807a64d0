"""Compiled loops side by side, in as many threads as torch computes with."""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

PARTS = 4
"""Shares that work is dealt to, for any number of threads: results do not depend on it."""

ROWS_WORTH_A_THREAD = 8192
"""Fewer rows than this are done sooner than a second thread is woken."""


def in_threads(rows: int, work: Callable[[int], Any]) -> list[Any]:
    """``work(part)`` for all :data:`PARTS`, side by side where ``rows`` are worth it."""
    threads = min(torch.get_num_threads(), PARTS, rows // ROWS_WORTH_A_THREAD)
    if threads < 2:
        return [work(part) for part in range(PARTS)]
    deal = [range(thread, PARTS, threads) for thread in range(threads)]
    # This thread takes a share too, rather than wait.
    others = [_pool(os.getpid()).submit(_share, work, parts) for parts in deal[1:]]
    own = _share(work, deal[0])
    shares = [own, *(other.result() for other in others)]
    return [shares[part % threads][part // threads] for part in range(PARTS)]


def shares_of(rows: int) -> list[tuple[int, int]]:
    """The first row of each part, and the one after its last."""
    cuts = [rows * part // PARTS for part in range(PARTS + 1)]
    return list(itertools.pairwise(cuts))


def _share(work: Callable[[int], Any], parts: range) -> list[Any]:
    return [work(part) for part in parts]


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    # One a process: threads do not survive a fork.
    return ThreadPoolExecutor(PARTS - 1, thread_name_prefix="compiled")
