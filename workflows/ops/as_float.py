"""A cast to float32."""

import numpy as np

from core.merlin import ops


class AsFloat(ops.Operator):
    """Casts to float32; unlike a LambdaOp it is carried to a worker by its name."""

    def transform(self, col_selector, df):
        return df[col_selector.names].astype(np.float32)

    @property
    def output_dtype(self):
        return np.float32
