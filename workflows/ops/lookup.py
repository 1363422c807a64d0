"""Known values → their positions, for operators that keep something for every value."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from workflows.ops.categorify import as_values
from workflows.ops.hash_index import HashIndex

ABSENT = -1


class ValueLookup:
    """Where each value of a column stands in ``values``.

    Args:
        values: distinct, int64 or strings, at most one of them null.
    """

    def __init__(self, values: pa.Array):
        self._null = values.index(None).as_py() if values.null_count else ABSENT
        self._values = values
        self._index = None
        if pa.types.is_integer(values.type):
            known = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
            self._known = np.append(known, ABSENT)  # absent, -1, stays what it is
            self._index = HashIndex(values.drop_null().to_numpy())

    def positions(self, column: pd.Series) -> np.ndarray:
        """Positions ``(rows,)``, -1 where a value is not known."""
        found, missing = as_values(column)
        if isinstance(found, np.ndarray) and self._index is not None:
            positions = self._known[self._index.positions(found)]
        else:
            wanted = pa.array(found).cast(self._values.type, safe=False)
            positions = pc.index_in(wanted, value_set=self._values)
            positions = pc.fill_null(positions, ABSENT).to_numpy(zero_copy_only=False).copy()
        if missing is not None:
            positions[missing] = self._null
        return positions
