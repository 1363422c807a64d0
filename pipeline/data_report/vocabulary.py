"""Training values of a coded column: how often each came, and which of them have a code."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.artifacts import read_json
from core.parquet import read_table


@dataclass(frozen=True)
class Vocabulary:
    """All values of the training rows, in value order, with their counts; ``kept`` have a code."""

    values: pa.Array
    counts: np.ndarray
    kept: int
    kept_rows: int

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    def top(self, number: int) -> list[tuple[object, int]]:
        """The most frequent values with their counts; equal ones in value order."""
        order = np.lexsort((np.arange(len(self.counts)), -self.counts))[:number]
        return [(self.values[int(at)].as_py(), int(self.counts[at])) for at in order]

    def unseen(self, values: pa.Array) -> int:
        """How many of ``values`` (without nulls) no training row has."""
        if not len(self.values):
            return len(values)
        if pa.types.is_integer(self.values.type) and pa.types.is_integer(values.type):
            known, wanted = self.values.to_numpy(), values.to_numpy()
            at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            return int((known[at] != wanted).sum())
        return pc.sum(pc.invert(pc.is_in(values, self.values.cast(values.type)))).as_py() or 0


def read_vocabulary(state: Path, column: str) -> Vocabulary | None:
    """The counts and codes that the fitted state keeps of a column; None if it keeps none.

    Columns that share a vocabulary have one of the group, counted over all of them.
    """
    for name in (column, *_groups(state, column)):
        for path in sorted(state.glob(f"*/counts.{name}.parquet")):
            counted = read_table(path)
            values = counted["value"].combine_chunks()
            counts = counted["count"].combine_chunks().to_numpy()
            coded = read_table(path.with_name(f"unique.{name}.parquet"))["value"]
            coded = coded.combine_chunks().cast(values.type)
            mask = np.asarray(pc.is_in(values, coded))
            return Vocabulary(values, counts, len(coded), int(counts[mask].sum()))
    return None


def _groups(state: Path, column: str) -> list[str]:
    """Names of the shared vocabularies that ``column`` takes part in."""
    operators = read_json(state / "state.json")["operators"]
    groups = [group for entry in operators for group in (entry["state"] or {}).get("shared", ())]
    return ["_".join(group) for group in groups if column in group]
