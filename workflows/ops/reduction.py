"""A tree reduction over the partitions of a Dask frame, for the fit of a StatOperator."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask.dataframe as dd
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from core import frames

SPLIT_EVERY = 8


@dataclass(frozen=True)
class Partial:
    """The statistics of one frame, and how those of several are put together."""

    statistics: Any
    combine: Callable[[list[Any]], Any]


class Reduction(Delayed):
    """What :func:`tree_reduce` gives for a Dask frame: a statistic that is yet to be computed."""


def lies_on_a_gpu(frame: Any) -> bool:
    """Whether a frame is cuDF's; of Dask's one cannot tell, and it is taken for the host's."""
    return not isinstance(frame, dd.DataFrame) and not frames.on_host(frame)


def tree_reduce(
    frame: Any, chunk: Callable[[Any], Any], combine: Callable[[list[Any]], Any]
) -> Reduction | Partial:
    """``combine`` over the ``chunk`` of every partition, at most eight at a time.

    A worker holds the statistics of eight partitions at once, never those of all. A plain frame
    gives its own statistics at once: so ``pipeline.fitting`` fits without a graph of the whole log.
    """
    if not isinstance(frame, dd.DataFrame):
        return Partial(chunk(frame), combine)
    name = f"{chunk.__name__}-{tokenize(frame._name, chunk, combine)}"
    layer: dict[Any, Any] = {
        (name, 0, part): (chunk, (frame._name, part)) for part in range(frame.npartitions)
    }
    depth, width = 0, frame.npartitions
    while width > 1 or depth == 0:
        groups = range(0, width, SPLIT_EVERY)
        for group, start in enumerate(groups):
            members = [(name, depth, p) for p in range(start, min(start + SPLIT_EVERY, width))]
            layer[(name, depth + 1, group)] = (combine, members)
        depth, width = depth + 1, len(groups)
    result = f"{name}-result"
    layer[result] = (name, depth, 0)
    graph = HighLevelGraph.from_collections(result, layer, dependencies=[frame])
    return Reduction(result, graph)
