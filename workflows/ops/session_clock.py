"""Event times → what a session model can use: the hour of the day, and the time since before."""

import numpy as np

from core import frames
from core.merlin import ColumnSchema, Schema, Tags, ops

HOUR_SIN, HOUR_COS, GAP = "hour_sin", "hour_cos", "gap"
SECONDS_A_DAY = 86_400


class SessionClock(ops.Operator):
    """From ``session_id`` and ``timestamp`` (UTC), rows in session and time order:

    - ``hour_sin``, ``hour_cos``: the time of day on a circle, so that 23:59 is close to 00:00;
    - ``gap``: log(1 + seconds since the previous event of the session), 0 at the first.

    Works within a partition, which must hold whole sessions.
    """

    def transform(self, col_selector, df):
        seconds = frames.milliseconds(df["timestamp"]) / 1000.0
        angle = seconds % SECONDS_A_DAY * (2 * np.pi / SECONDS_A_DAY)
        gap = np.zeros_like(seconds)
        gap[1:] = np.maximum(seconds[1:] - seconds[:-1], 0.0)
        gap[frames.starts(df["session_id"])] = 0.0
        columns = {HOUR_SIN: np.sin(angle), HOUR_COS: np.cos(angle), GAP: np.log1p(gap)}
        return frames.frame_of(df, {name: c.astype("float32") for name, c in columns.items()})

    def column_mapping(self, col_selector):
        return {name: ["session_id", "timestamp"] for name in (HOUR_SIN, HOUR_COS, GAP)}

    def compute_output_schema(self, input_schema, col_selector, prev_output_schema=None):
        return Schema(
            [
                ColumnSchema(name, dtype=np.float32, tags=[Tags.CONTINUOUS])
                for name in (HOUR_SIN, HOUR_COS, GAP)
            ]
        )
