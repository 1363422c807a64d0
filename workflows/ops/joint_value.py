"""Several columns as one: a number for every combination of their values."""

from typing import Any

import numpy as np

from core import frames
from core.merlin import ops
from workflows.ops.log_squared import SUFFIX, LogSquared
from workflows.ops.stable_hash import combine, hash_column

Groups = tuple[tuple[str, ...], ...]


class JointValues:
    """The columns ``A_X_B``: a 64-bit hash of the values of A and B together, int64.

    For operators that keep something for every value, so that they can keep it for combinations. A
    missing value is a value. Among n combinations any two fall together with a chance of about
    n² / 2⁶⁵: one in four million for three million of them.

    Args:
        groups: the columns that belong together; their order matters.
        counts: columns of numbers that count by their level (:class:`workflows.ops.LogSquared`).
    """

    def __init__(self, groups: Groups, counts: tuple[str, ...] = ()):
        self.groups = {"_X_".join(group): list(group) for group in groups}
        needed = sorted({name for group in groups for name in group})
        self.levels = [name for name in needed if name in counts]
        self.values = [name for name in needed if name not in counts]

    def frame(self, df: Any) -> Any:
        """A frame of the columns, where ``df`` lies."""
        hashes = {name: hash_column(df[name])[0] for name in self.values}
        if self.levels:
            levels = LogSquared().transform(ops.ColumnSelector(self.levels), df)
            hashes |= {name: hash_column(levels[name + SUFFIX])[0] for name in self.levels}
        joint = {
            name: combine([hashes[part] for part in group]).view(np.int64)
            for name, group in self.groups.items()
        }
        return frames.frame_of(df, joint)
