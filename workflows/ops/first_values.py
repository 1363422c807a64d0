"""The first values of lists."""

from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from core import frames
from core.merlin import ops
from workflows.ops.values import one_array


class FirstValues(ops.Operator):
    """Columns of lists, Arrow's or cuDF's → the same with at most ``most[column]`` values a list,
    the first ones.

    NVTabular's ``ListSlice`` takes lists as Python's objects.
    """

    def __init__(self, most: dict[str, int]):
        super().__init__()
        self.most = most

    def transform(self, col_selector, df):
        cut = self._on_host if frames.on_host(df) else self._on_device
        return frames.frame_of(df, {n: cut(df[n], self.most[n]) for n in col_selector.names})

    def _on_host(self, column: pd.Series, most: int) -> Any:
        lists = one_array(pa.array(column.array))
        return pd.arrays.ArrowExtensionArray(pc.list_slice(lists, 0, most))

    def _on_device(self, column: Any, most: int) -> Any:
        lengths = frames.lengths(column)
        module = frames.module_of(lengths)
        starts = module.cumsum(lengths) - lengths
        values = frames.elements(column)
        places = module.arange(len(values))
        owners = module.searchsorted(module.cumsum(lengths), places, side="right")
        first = module.flatnonzero(places - starts[owners] < most)
        kept = module.minimum(lengths, most)
        return frames.lists(frames.taken(values, first), module.cumsum(kept) - kept)
