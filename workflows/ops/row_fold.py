"""A fold for every training row, by what the row holds: the same in any partition and order."""

import numpy as np

from core import frames
from core.merlin import ColumnSchema, Schema, ops
from workflows.ops.stable_hash import combine, hash_column

FOLD = "fold"
NO_FOLD = -1


class RowFold(ops.Operator):
    """The column ``fold``: 0 … ``folds`` - 1 for training rows, -1 for all others (int8).

    The fold is a hash of the row's values, of the columns that are selected beside ``flag``. So it
    does not depend on the partition, the order of the rows or of the files, or what is read with
    them; rows that agree in all columns share a fold. The target must not be among them.

    Args:
        folds: how many, at most 127.
        flag: column that is not 0 in the rows that train.
    """

    def __init__(self, folds: int, flag: str):
        super().__init__()
        self.folds = folds
        self.flag = flag

    def transform(self, col_selector, df):
        names = sorted(name for name in col_selector.names if name != self.flag)
        hashed = combine([hash_column(df[name], truncate=True)[0] for name in names])
        fold = (hashed % np.uint64(self.folds)).astype(np.int8)
        fold[df[self.flag].values == 0] = NO_FOLD
        return frames.frame_of(df, {FOLD: fold})

    def column_mapping(self, col_selector):
        return {FOLD: list(col_selector.names)}

    def compute_output_schema(self, input_schema, col_selector, prev_output_schema=None):
        return Schema([ColumnSchema(FOLD, dtype=np.int8)])
