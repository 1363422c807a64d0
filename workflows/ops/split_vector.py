"""A column of vectors → a column a dimension."""

from typing import Any

import numpy as np
import pandas as pd

from core import frames
from core.errors import UserError
from core.merlin import ColumnSchema, Schema, Tags, ops


class SplitVector(ops.Operator):
    """Columns of vectors (a text's or image's embedding) → ``X_0`` … ``X_{width - 1}``, float32.

    The values pass as they are; a missing vector is all zeros. One column a dimension is what both
    a session's lists and the models' continuous inputs are made of, so a vector is one more set of
    dense features to them.

    Args:
        widths: the length of each column's vectors.
    """

    def __init__(self, widths: dict[str, int]):
        super().__init__()
        self.widths = widths

    def transform(self, col_selector, df):
        columns = {}
        for name in col_selector.names:
            stack = self._stacked if frames.on_host(df) else self._stacked_on_device
            stacked = stack(name, df[name])
            for dimension in range(self.widths[name]):
                columns[f"{name}_{dimension}"] = stacked[:, dimension]
        if not frames.on_host(df):
            return frames.frame_of(df, {name: part.copy() for name, part in columns.items()})
        out = pd.DataFrame(columns, index=pd.RangeIndex(len(df)))
        out.index = df.index
        return out

    def _stacked(self, name: str, vectors: pd.Series) -> np.ndarray:
        width = self.widths[name]
        stacked = np.zeros((len(vectors), width), np.float32)
        present = vectors.notna().to_numpy()
        self._check(name, {len(vector) for vector in vectors[present]})
        if present.any():
            stacked[present] = np.concatenate(vectors[present].to_list()).reshape(-1, width)
        return stacked

    def _stacked_on_device(self, name: str, vectors: Any) -> frames.Array:
        width, present = self.widths[name], ~frames.missing(vectors)
        found = frames.on_the_host(np.unique(frames.lengths(vectors)[present]))
        self._check(name, set(found.tolist()))
        numbers = frames.leaves(vectors).astype(np.float32)
        stacked = frames.module_of(numbers).zeros((len(vectors), width), dtype=np.float32)
        stacked[np.flatnonzero(present)] = numbers.reshape(-1, width)
        return stacked

    def _check(self, name: str, found: set[int]) -> None:
        wrong = found - {self.widths[name]}
        if wrong:
            raise UserError(
                f"vectors.{name}: set to {self.widths[name]} numbers, the log has vectors of "
                f"{', '.join(map(str, sorted(wrong)))}"
            )

    def column_mapping(self, col_selector):
        return {
            f"{name}_{dimension}": [name]
            for name in col_selector.names
            for dimension in range(self.widths[name])
        }

    def compute_output_schema(self, input_schema, col_selector, prev_output_schema=None):
        names = self.column_mapping(col_selector)
        return Schema(
            [ColumnSchema(name, dtype=np.float32, tags=[Tags.CONTINUOUS]) for name in names]
        )
