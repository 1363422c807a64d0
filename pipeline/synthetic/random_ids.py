"""The *random* generator of the DLRM paper: ids without locality, for systems work.

Naumov et al., Deep learning recommendation model for personalization and recommendation systems,
2019, section 5. Its own code draws labels without any signal; here they have some.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipeline.synthetic.shards import Bag, SystemsSettings, draw_offsets, write_shards


class RandomGenerateSettings(SystemsSettings):
    """Which random ids to write."""

    tables: tuple[int, ...] = Field((1_000_000,) * 8, min_length=1)
    """Rows of each embedding table; ids run from 0."""
    distribution: Literal["uniform", "gaussian"] = "uniform"
    """``gaussian``: around the middle of the table, a sixth of its rows wide, cut at its ends."""


def generate_random(
    settings: RandomGenerateSettings,
    folder: str | Path,
    advance: Callable[[float], None] = lambda rows: None,
) -> dict[str, Any]:
    """Writes ``part-*.parquet`` and ``manifest.json`` (see :func:`shards.write_shards`)."""

    def draw(random: np.random.Generator, rows: int) -> list[Bag]:
        bags = []
        for size in settings.tables:
            offsets = draw_offsets(settings, random, rows)
            bags.append((offsets, draw_ids(random, offsets[-1], size, settings.distribution)))
        return bags

    described = {"recipe": "random", "tables": list(settings.tables)}
    return write_shards(settings, len(settings.tables), draw, folder, advance, described)


def draw_ids(random: np.random.Generator, count: int, size: int, distribution: str) -> np.ndarray:
    """``count`` ids of a table with ``size`` rows, int64 ``(count,)``."""
    if distribution == "uniform":
        return random.integers(0, size, count)
    ids = np.rint(random.normal((size - 1) / 2, size / 6, count)).astype(np.int64)
    # Drawn again where they fall outside, so that the ends do not gather what was cut.
    while (outside := (ids < 0) | (ids >= size)).any():
        ids[outside] = np.rint(random.normal((size - 1) / 2, size / 6, outside.sum()))
    return ids
