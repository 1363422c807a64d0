"""A cast to float32."""

import numpy as np

from core import frames
from core.merlin import ops


class AsFloat(ops.Operator):
    """Casts to float32; unlike a LambdaOp it is carried to a worker by its name."""

    def transform(self, col_selector, df):
        names = col_selector.names
        if frames.on_host(df):
            return df[names].astype(np.float32)
        return frames.frame_of(df, {name: frames.numbers(df[name], np.float32) for name in names})

    @property
    def output_dtype(self):
        return np.float32
