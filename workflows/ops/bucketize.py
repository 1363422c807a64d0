"""NVTabular's Bucketize that knows missing values and states its domain."""

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
        out = type(df)()
        for name in col_selector.names:
            values = df[name]
            passed = [(values >= edge).astype(self.output_dtype) for edge in self.boundaries(name)]
            codes = sum(passed, start=self.output_dtype(FIRST_BUCKET))
            out[name] = codes.where(values.notna(), NULL).astype(self.output_dtype)
        return out

    def _compute_properties(self, col_schema, input_schema):
        boundaries = self.boundaries(col_schema.name)
        return with_codes(col_schema, len(boundaries) + 1 + FIRST_BUCKET)
