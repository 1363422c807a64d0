"""Event times → what a session model can use: the hour of the day, and the time since before."""

import numpy as np

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
        seconds = df["timestamp"].astype("datetime64[ms]").astype("int64") / 1000.0
        angle = seconds % SECONDS_A_DAY * (2 * np.pi / SECONDS_A_DAY)
        first = df["session_id"] != df["session_id"].shift(1)
        gap = (seconds - seconds.shift(1)).where(~first, 0.0).fillna(0.0).clip(lower=0.0)
        out = type(df)()
        out[HOUR_SIN] = np.sin(angle).astype("float32")
        out[HOUR_COS] = np.cos(angle).astype("float32")
        out[GAP] = np.log1p(gap).astype("float32")
        return out

    def column_mapping(self, col_selector):
        return {name: ["session_id", "timestamp"] for name in (HOUR_SIN, HOUR_COS, GAP)}

    def compute_output_schema(self, input_schema, col_selector, prev_output_schema=None):
        return Schema(
            [
                ColumnSchema(name, dtype=np.float32, tags=[Tags.CONTINUOUS])
                for name in (HOUR_SIN, HOUR_COS, GAP)
            ]
        )
