"""Counts as categories: small ones as they are, large ones by their order of magnitude."""

import numpy as np

from core import frames
from core.merlin import ColumnSchema, Schema, ops

SUFFIX = "_level"


class LogSquared(ops.Operator):
    """The columns ``X_level``: ⌊(ln x)²⌋ + 2 where x > 2, otherwise ⌊x⌋; whole numbers as float64.

    Neighbouring counts share a level, the more of them the larger they are: 3 and 4 have 3, 950
    to 1,020 have 49. With a vocabulary of them a column of counts can have embeddings too. Missing
    values stay missing. It is the transform of the winners of Criteo's contest (Juan et al., 2014),
    with levels moved up by 2, so that they do not meet the small numbers.
    """

    def transform(self, col_selector, df):
        columns = {}
        for name in col_selector.names:
            values = frames.numbers(df[name])
            logs = np.log(np.maximum(values, 1))
            levels = np.floor(logs * logs) + 2
            columns[name + SUFFIX] = np.where(values > 2, levels, np.floor(values))
        return frames.frame_of(df, columns)

    def column_mapping(self, col_selector):
        return {name + SUFFIX: [name] for name in col_selector.names}

    def compute_output_schema(self, input_schema, col_selector, prev_output_schema=None):
        names = self.column_mapping(col_selector)
        return Schema([ColumnSchema(name, dtype=np.float64) for name in names])
