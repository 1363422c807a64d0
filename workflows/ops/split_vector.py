"""A column of vectors → a column a dimension."""

from typing import Any

import numpy as np
import pandas as pd

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
            stacked = self._stacked(name, df[name])
            for dimension in range(self.widths[name]):
                columns[f"{name}_{dimension}"] = stacked[:, dimension]
        out = pd.DataFrame(columns, index=pd.RangeIndex(len(df)))
        out = out if isinstance(df, pd.DataFrame) else type(df).from_pandas(out)
        out.index = df.index
        return out

    def _stacked(self, name: str, column: Any) -> np.ndarray:
        vectors = column.to_pandas() if hasattr(column, "to_pandas") else column
        width = self.widths[name]
        stacked = np.zeros((len(vectors), width), np.float32)
        present = vectors.notna().to_numpy()
        wrong = {len(vector) for vector in vectors[present]} - {width}
        if wrong:
            raise UserError(
                f"vectors.{name}: set to {width} numbers, the log has vectors of "
                f"{', '.join(map(str, sorted(wrong)))}"
            )
        if present.any():
            stacked[present] = np.concatenate(vectors[present].to_list()).reshape(-1, width)
        return stacked

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
