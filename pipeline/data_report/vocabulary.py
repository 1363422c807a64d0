"""Training values of a coded column: how often each came, and which of them have a code."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.artifacts import read_json
from core.parquet import read_table
from workflows.state_files import StateFiles


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
    for entry in read_json(state / "state.json")["operators"]:
        if entry["operator"] != "Categorify":
            continue
        groups = entry["state"]["shared"]
        key = next(("_".join(group) for group in groups if column in group), column)
        if key not in entry["state"]["columns"]:
            continue
        files = StateFiles(
            state / entry["folder"], entry["state"], str(state), entry["state"]["columns"]
        )
        counted = read_table(_path(files, "counts", key))
        values = counted["value"].combine_chunks()
        counts = counted["count"].combine_chunks().to_numpy()
        coded = read_table(_path(files, "unique", key))["value"]
        coded = coded.combine_chunks().cast(values.type)
        mask = np.asarray(pc.is_in(values, coded))
        return Vocabulary(values, counts, len(coded), int(counts[mask].sum()))
    return None


def _path(files: StateFiles, kind: str, key: str) -> Path:
    return files.folder / files.of_columns(kind, files.columns)[key]
