"""NVTabular's Bucketize that knows missing values and states its domain."""

import numpy as np

from core import frames
from core.merlin import ops
from workflows.ops.codes import FIRST_BUCKET, NULL, with_codes


class Bucketize(ops.Bucketize):
    """Numbers → categorical codes by boundaries: ``boundaries[i - 1] <= x < boundaries[i]``.

    A drop-in for ``nvtabular.ops.Bucketize``, whose missing values fall into the last bucket and
    whose schema has no domain, so that no embedding can be made of its columns. Codes (int32): 1
    missing, then 3 for what is below the first boundary, 4, … to ``len(boundaries) + 3``.

    Args:
        boundaries: rising numbers for each column.
    """

    def __init__(self, boundaries: dict[str, tuple[float, ...]]):
        # Not a lambda, as NVTabular makes of a dict: a worker process must be sent it.
        super().__init__(boundaries.__getitem__)

    def transform(self, col_selector, df):
        columns = {}
        for name in col_selector.names:
            # In the column's own precision: a float32 0.7 is not below the boundary 0.7.
            kind = df[name].dtype
            values = frames.numbers(df[name], kind if kind.kind == "f" else np.float64)
            codes = np.full_like(values, FIRST_BUCKET, dtype=self.output_dtype)
            for edge in self.boundaries(name):
                codes += values >= edge
            codes[np.isnan(values)] = NULL
            columns[name] = codes
        return frames.frame_of(df, columns)

    def _compute_properties(self, col_schema, input_schema):
        boundaries = self.boundaries(col_schema.name)
        return with_codes(col_schema, len(boundaries) + 1 + FIRST_BUCKET)
