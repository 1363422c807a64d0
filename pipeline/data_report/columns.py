"""One column of a raw log, read in a stream: what is missing, how values are spread over days."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.data_report.drift import CategoryBins, QuantileBins, population_stability_index
from pipeline.data_report.settings import DataReportSettings
from pipeline.data_report.shards import Chunk, RawLog, Rows
from pipeline.data_report.vocabulary import Vocabulary
from pipeline.splits import SPLITS

SAMPLE = 1_000_000
"""Training values that the quantiles are taken from, about; all, if there are fewer."""


@dataclass
class Moments:
    """Mean and variance of a stream, merged as Chan, Golub and LeVeque (1979) do."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: np.ndarray) -> None:
        if not len(values):
            return
        count, mean = len(values), float(values.mean())
        delta, total = mean - self.mean, self.count + count
        self.squares += float(((values - mean) ** 2).sum())
        self.squares += delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total
        self.low, self.high = min(self.low, values.min()), max(self.high, values.max())

    def described(self) -> dict[str, float | None]:
        if not self.count:
            return dict.fromkeys(("mean", "std", "min", "max"))
        std = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        found = {"mean": self.mean, "std": std, "min": self.low, "max": self.high}
        return {name: float(value) for name, value in found.items()}


@dataclass
class Scan:
    """What one pass over a column gathers. ``binned``: counts, shape ``(days, bins)``;
    ``training``: those of the training rows, ``(bins,)``."""

    binned: np.ndarray
    training: np.ndarray
    missing: np.ndarray
    rows: np.ndarray
    split_rows: dict[str, int] = field(default_factory=dict)
    split_missing: dict[str, int] = field(default_factory=dict)
    split_unseen: dict[str, int] = field(default_factory=dict)
    moments: Moments = field(default_factory=Moments)


def scan_column(
    log: RawLog, name: str, bins: CategoryBins | QuantileBins, vocabulary: Vocabulary | None
) -> Scan:
    """Reads a column once; see :class:`Scan`."""
    days = len(log.days)
    counts = np.zeros((days, bins.count), np.int64)
    scan = Scan(counts, counts.sum(axis=0), np.zeros(days, int), np.zeros(days, int))
    for chunk in log.chunks(name):
        missing = _missing(chunk.values)
        scan.rows += np.bincount(chunk.days, minlength=days)
        scan.missing += np.bincount(chunk.days[missing], minlength=days)
        places = bins.of(chunk.values)
        of_bins = np.bincount(chunk.days * bins.count + places, minlength=days * bins.count)
        scan.binned += of_bins.reshape(days, bins.count)
        if "train" in chunk.splits:
            scan.training += np.bincount(places[chunk.splits["train"]], minlength=bins.count)
        if isinstance(bins, QuantileBins):
            present = chunk.values.cast(pl.Float64).to_numpy()[~missing]
            scan.moments.add(present)
        for split, here in chunk.splits.items():
            _scan_split(scan, chunk, split, here, missing, vocabulary)
    return scan


def _scan_split(
    scan: Scan,
    chunk: Chunk,
    split: str,
    here: Rows,
    missing: np.ndarray,
    vocabulary: Vocabulary | None,
) -> None:
    absent = missing[here]
    scan.split_rows[split] = scan.split_rows.get(split, 0) + len(absent)
    scan.split_missing[split] = scan.split_missing.get(split, 0) + int(absent.sum())
    if vocabulary is not None and split != "train":
        unseen = vocabulary.unseen(chunk.values[here].drop_nulls().to_arrow())
        scan.split_unseen[split] = scan.split_unseen.get(split, 0) + unseen


def _missing(values: pl.Series) -> np.ndarray:
    missing = values.is_null()
    if values.dtype.is_float():
        missing |= values.is_nan().fill_null(True)
    return missing.to_numpy()


def training_sample(log: RawLog, name: str) -> np.ndarray:
    """Up to about ``SAMPLE`` values of the training rows, evenly spaced, those missing left out; of
    a long log only some of its shards are read."""
    rows = [_training_rows(splits) for splits in log.splits]
    every = max(1, sum(rows) // SAMPLE)
    chosen = [number for number, count in enumerate(rows) if count][::every]
    step = max(1, -(-sum(rows[number] for number in chosen) // SAMPLE))
    parts = [np.empty(0)]
    for chunk in log.chunks(name, chosen):
        values = chunk.values.cast(pl.Float64).to_numpy()[chunk.splits["train"]][::step]
        parts.append(values[~np.isnan(values)])
    return np.concatenate(parts)


def _training_rows(splits: Mapping[str, slice] | np.ndarray) -> int:
    if isinstance(splits, np.ndarray):
        return int((splits == SPLITS.index("train")).sum())
    rows = splits.get("train", slice(0, 0))
    return rows.stop - rows.start


def count_values(log: RawLog, name: str) -> Vocabulary:
    """All values of a column that no state counts, over the whole log; none has a code."""
    total = None
    for chunk in log.chunks(name):
        counted = chunk.values.drop_nulls().rename("value").value_counts(name="count")
        counted = counted.with_columns(pl.col("count").cast(pl.Int64))
        total = counted if total is None else pl.concat([total, counted])
        total = total.group_by("value").agg(pl.col("count").sum())
    total = total.sort("value")
    return Vocabulary(total["value"].to_arrow(), total["count"].to_numpy(), 0, 0)


def drift(scan: Scan, least: int) -> tuple[list[float | None], list[float | None]]:
    """PSI of every day against the training rows, and what chance alone would give.

    None for a day of fewer than ``least`` rows; for every day where there is nothing to compare:
    fewer training rows than that, or one day alone that has them.
    """
    trained, used = int(scan.training.sum()), scan.binned.sum(axis=0) > 0
    enough = scan.rows >= least
    comparable = enough if trained >= least and enough.sum() > 1 else np.zeros_like(enough)
    values: list[float | None] = []
    chance: list[float | None] = []
    for there, rows, counts in zip(comparable, scan.rows, scan.binned, strict=True):
        psi = population_stability_index(scan.training, counts) if there else math.nan
        known = not math.isnan(psi)
        values.append(round(psi, 6) if known else None)
        by_chance = (int(used.sum()) - 1) * (1 / trained + 1 / int(rows)) if known else 0.0
        chance.append(round(by_chance, 6) if known else None)
    return values, chance


def shares(part: dict[str, int], whole: dict[str, int]) -> dict[str, float]:
    return {name: round(part.get(name, 0) / rows, 6) for name, rows in whole.items() if rows}


def describe_column(
    log: RawLog,
    name: str,
    kind: str,
    vocabulary: Vocabulary | None,
    settings: DataReportSettings,
) -> dict[str, Any]:
    """The report's entry for one column."""
    counted = vocabulary
    if kind == "categorical":
        counted = vocabulary or count_values(log, name)
        frequent = [value for value, _ in counted.top(settings.psi_bins)]
        cuts: Any = CategoryBins(pa.array(frequent, counted.values.type))
    else:
        cuts = QuantileBins.fit(training_sample(log, name), settings.psi_bins)
    scan = scan_column(log, name, cuts, vocabulary)
    psi, chance = drift(scan, settings.psi_least_rows)
    entry: dict[str, Any] = {
        "column": name,
        "kind": kind,
        "rows": int(scan.rows.sum()),
        "missing": round(float(scan.missing.sum() / max(1, scan.rows.sum())), 6),
        "missing_by_split": shares(scan.split_missing, scan.split_rows),
        "missing_by_day": [
            round(float(m / n), 6) if n else None
            for m, n in zip(scan.missing, scan.rows, strict=True)
        ],
        "psi_by_day": psi,
        "psi_by_chance": chance,
    }
    if counted is not None:
        entry |= _of_values(counted, vocabulary is not None, settings.top_values)
    else:
        entry |= scan.moments.described()
    if scan.split_unseen:
        entry["unseen"] = _unseen(scan)
    return entry


def _of_values(counted: Vocabulary, coded: bool, top_values: int) -> dict[str, Any]:
    rows = counted.rows
    found: dict[str, Any] = {"cardinality": len(counted.values)}
    if coded:
        found["kept"] = counted.kept
        found["dropped"] = len(counted.values) - counted.kept
        found["dropped_share"] = round(1 - counted.kept_rows / rows, 6) if rows else 0.0
    found["top"] = [
        {"value": value, "count": count, "share": round(count / rows, 6)}
        for value, count in counted.top(top_values)
    ]
    return found


def _unseen(scan: Scan) -> dict[str, float]:
    """Share of the rows that are not missing whose value no training row has."""
    present = {
        split: scan.split_rows[split] - scan.split_missing[split] for split in scan.split_unseen
    }
    return shares(scan.split_unseen, present)
