"""Integers → positions by binary search: what a hash table does on the host, in array operations
that NumPy and CuPy share."""

from core.frames import Array, module_of


class SortedIndex:
    """Positions of known int64 values; all arrays lie where ``values`` does.

    Args:
        values: distinct, ``(n,)``.
    """

    def __init__(self, values: Array):
        self._order = module_of(values).argsort(values)
        self._sorted = values[self._order]

    def positions(self, wanted: Array, absent: int = -1) -> Array:
        """The position of each wanted value in ``values``, int64, ``absent`` where it is none."""
        module = module_of(wanted)
        if not len(self._sorted):
            return module.full(len(wanted), absent, dtype="int64")
        place = module.searchsorted(self._sorted, wanted)
        place = module.minimum(place, len(self._sorted) - 1)
        return module.where(self._sorted[place] == wanted, self._order[place], absent)
