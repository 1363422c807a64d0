"""Rounds of several ways to do one thing, one after the other, and what they say together."""

import gc
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from core.console import say, table

PYTORCHS_OWN = {"THP_MEM_ALLOC_ENABLE": "0", "GOMP_SPINCOUNT": "300000"}
"""What PyTorch and libgomp do where these are not set; ours sets them otherwise (``core``)."""


@dataclass
class Way:
    """One contestant.

    ``run()`` does one round and returns its rate, such as samples a second; what it sets up first
    is not in the rate.
    """

    name: str
    run: Callable[[], float]
    rates: list[float] = field(default_factory=list)


def alternate(ways: list[Way], rounds: int) -> None:
    """All ways in turn, ``rounds`` times: what disturbs the machine disturbs all of them."""
    for _ in range(rounds):
        for way in ways:
            gc.collect()
            way.rates.append(way.run())
            say(f"  {way.name}: {way.rates[-1]:,.0f}")


def apart(run: Callable[..., float], *arguments: Any, settings: dict[str, str]) -> float:
    """``run(*arguments)`` in a fresh process with its own environment; ``run`` stands in a module.

    No way then finds the memory, threads and settings that another one left.
    """
    context = multiprocessing.get_context("spawn")
    before = {name: os.environ.get(name) for name in settings}
    rates = context.SimpleQueue()
    process = context.Process(target=_run, args=(rates, run, arguments))
    os.environ.update(settings)
    try:
        process.start()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    process.join()
    if process.exitcode:
        raise SystemExit(f"{run.__name__} ended with code {process.exitcode}")
    return rates.get()


def _run(rates: Any, run: Callable[..., float], arguments: tuple[Any, ...]) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments[0].threads)
    rates.put(run(*arguments))


def summary(title: str, unit: str, ways: list[Way], ours: str) -> dict[str, Any]:
    """Prints a table and returns it: best and median rate, and ours over each in each round."""
    mine = next(way for way in ways if way.name == ours)
    found, rows = {}, []
    for way in ways:
        ratios = [a / b for a, b in zip(mine.rates, way.rates, strict=True)]
        found[way.name] = {
            "rates": way.rates,
            "best": max(way.rates),
            "median": statistics.median(way.rates),
            "ours_over_it": {"best": max(mine.rates) / max(way.rates), "each_round": ratios},
        }
        rows.append(
            [
                way.name,
                f"{max(way.rates):,.0f}",
                f"{statistics.median(way.rates):,.0f}",
                f"{max(mine.rates) / max(way.rates):.2f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            ]
        )
    header = ["way", f"best, {unit}", "median", "ours / it, best", "median of rounds"]
    table(title, header, rows)
    return found


def timed_steps(step: Callable[[int], Any], steps: int, batch_size: int) -> float:
    """Samples a second of ``step(number)``, after two steps that are not counted."""
    for number in range(2):
        step(number)
    began = time.perf_counter()
    for number in range(2, steps + 2):
        step(number)
    return steps * batch_size / (time.perf_counter() - began)


def gemm_rate() -> float:
    """Floating-point operations a second of the best of ten fp32 matrix products."""
    a, b = torch.randn(4096, 512), torch.randn(512, 512)
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return 2 * 4096 * 512 * 512 / best
