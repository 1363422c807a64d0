"""Events → one row a session, each column a ragged list in event order."""

import itertools

import numpy as np
import pandas as pd

from core import frames
from core.merlin import ColumnSchema, Schema, Tags, ops

KEY, TIME, START = "session_id", "timestamp", "start"


class SessionLists(ops.Operator):
    """Groups rows that already stand in session and time order into list columns.

    ``nvtabular.ops.Groupby`` sorts anew, unstably where times are equal, and walks every list in
    Python. Here a partition holds whole sessions, side by side, in the order that is wanted
    (``pipeline.sessionize`` sees to it), so lists are slices of the columns. The columns keep their
    names, tags and domains; ``session_id`` and ``start`` (time of the first event) are scalars.
    """

    def transform(self, col_selector, df):
        lists = [name for name in col_selector.names if name not in (KEY, TIME)]
        starts = frames.starts(df[KEY])
        if not frames.on_host(df):
            out = {KEY: frames.taken(df[KEY], starts), START: frames.taken(df[TIME], starts)}
            out |= {name: frames.lists(df[name], starts) for name in lists}
            return frames.frame_of(df, out)
        out = {KEY: df[KEY].to_numpy()[starts], START: df[TIME].to_numpy()[starts]}
        bounds = np.append(starts, len(df)).tolist()
        for name in lists:
            values = df[name].to_numpy()
            column = np.empty(len(starts), dtype=object)
            column[:] = [values[a:b] for a, b in itertools.pairwise(bounds)]
            out[name] = column
        return pd.DataFrame(out)

    def column_mapping(self, col_selector):
        mapping = {name: [name] for name in col_selector.names if name not in (KEY, TIME)}
        return {KEY: [KEY], START: [TIME], **mapping}

    def compute_output_schema(self, input_schema, col_selector, prev_output_schema=None):
        columns = [
            ColumnSchema(KEY, dtype=input_schema[KEY].dtype, tags=[Tags.SESSION_ID]),
            ColumnSchema(START, dtype=input_schema[TIME].dtype, tags=[Tags.TIME]),
        ]
        for column in input_schema:
            if column.name not in (KEY, TIME):
                listed = column.with_shape(((0, None), (0, None))).with_tags([Tags.LIST])
                columns.append(listed)
        return Schema(columns)
