"""A tree reduction over the partitions of a Dask frame, for the fit of a StatOperator."""

from collections.abc import Callable
from typing import Any

import dask.dataframe as dd
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

SPLIT_EVERY = 8


def tree_reduce(
    frame: dd.DataFrame, chunk: Callable[[Any], Any], combine: Callable[[list[Any]], Any]
) -> Delayed:
    """``combine`` over the ``chunk`` of every partition, at most eight at a time.

    A worker holds the statistics of eight partitions at once, never those of all.
    """
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
    return Delayed(result, HighLevelGraph.from_collections(result, layer, dependencies=[frame]))
