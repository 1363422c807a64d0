"""The ranking workflow: Criteo's columns → a label, dense floats and category codes."""

from functools import reduce
from operator import add
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from core.merlin import ColumnSchema, Schema, Tags, Workflow, ops
from workflows.columns import (
    CATEGORICAL_OPTIONS,
    ColumnSettings,
    Kind,
    VocabularySettings,
    buckets,
    category_codes,
    check_kind,
    fill,
    grouped,
    per_column,
    scaled,
)
from workflows.ops import (
    AsFloat,
    Categorify,
    CountEncoding,
    JointValues,
    LogSquared,
    TargetEncoding,
)

LABEL = "label"
DENSE = [f"I{i}" for i in range(1, 14)]
CATEGORICAL = [f"C{i}" for i in range(1, 27)]
RAW_TYPES: dict[str, Any] = {LABEL: np.int8} | dict.fromkeys(DENSE + CATEGORICAL, np.float64)
"""The columns of the raw Parquet, and NumPy's types for them."""
TRAINING = "training"
"""Says of a raw row whether it trains: only such a row is encoded out of its fold."""
KINDS: dict[str, Kind] = dict.fromkeys(DENSE, "continuous") | dict.fromkeys(
    CATEGORICAL, "categorical"
)


class RankingWorkflowSettings(VocabularySettings):
    """How raw Criteo columns become features."""

    freq_threshold: int = Field(5, ge=1)
    """A value seen fewer times than this in the training rows gets an out-of-vocabulary code."""
    max_size: int = Field(0, ge=0)
    """Most codes a column may have, the reserved ones included; 0 means no cap."""
    num_buckets: int = Field(1, ge=1)
    """Codes that a column's out-of-vocabulary values share, by a hash of the value."""
    missing_indicators: bool = False
    """Adds a 0/1 column for each dense column, saying where it was blank."""
    dense_transform: Literal["log", "none"] = "log"
    """log: log(1 + x) after clipping at zero (Criteo's counts are heavy-tailed)."""
    dense_scale: Literal["standard", "minmax", "none"] = "standard"
    """standard: (x - mean) / deviation; minmax: (x - min) / (max - min); over the training rows."""
    dense_levels: bool = False
    """Adds a categorical column for each dense one, ``NAME_level``: small numbers as they are,
    large ones by their order of magnitude (see :class:`workflows.ops.LogSquared`)."""
    target_encoding: tuple[str, ...] = ()
    """Categorical columns that also become the label's smoothed mean over the training rows with
    the same value, ``TE_NAME_label``: for training rows out of fold."""
    target_crosses: tuple[tuple[str, ...], ...] = ()
    """Groups of columns whose values together are encoded in the same way,
    ``TE_A_X_B_label``; a dense column counts by its level, as in ``dense_levels``."""
    target_counts: bool = False
    """Adds to each of these encodings, as ``TE_NAME_label_count``, how many rows the mean was taken
    over: standardised log(1 + rows)."""
    target_folds: int = Field(5, ge=2, le=127)
    """Folds of the target encoding."""
    target_smoothing: float = Field(20.0, ge=0)
    """Rows that the mean of all rows counts for in the target encoding of a value."""
    target_scale: Literal["mean", "log_odds"] = "log_odds"
    """mean: the smoothed mean itself; log_odds: log(p / (1 - p)), less that of all rows: as wide as
    the other numbers are, and 0 for a value of which nothing is known."""
    counts: tuple[str, ...] = ()
    """Categorical columns that also become log(1 + training rows with that value),
    ``NAME_count``, as boosted trees use it."""

    @model_validator(mode="after")
    def _columns_fit(self) -> "RankingWorkflowSettings":
        self.check_columns(KINDS)
        for setting in ("target_encoding", "counts"):
            names = getattr(self, setting)
            for name in names:
                check_kind(KINDS, name, setting, "categorical")
            if len(set(names)) < len(names):
                raise ValueError(f"{setting}: {list(names)} names a column twice")
        check_crosses(self.target_crosses)
        for group in self.shared_vocabularies:
            for option in CATEGORICAL_OPTIONS:
                found = per_column(self, option, group, getattr(self, option))
                if isinstance(found, dict) and len(set(found.values())) > 1:
                    raise ValueError(
                        f"shared_vocabularies: {', '.join(group)} need the same {option}"
                    )
        for name in DENSE:
            how = dense_settings(self, name)
            if how.transform == "log" and (how.clip_min is None or how.clip_min <= -1):
                raise ValueError(f"columns.{name}: transform log needs clip_min above -1")
            lowest = -np.inf if how.clip_min is None else how.clip_min
            if how.clip_max is not None and how.clip_max <= lowest:
                raise ValueError(f"columns.{name}: clip_max is not above {how.clip_min}")
        return self


def check_crosses(groups: tuple[tuple[str, ...], ...]) -> None:
    """Raises ValueError where ``target_crosses`` names what cannot be crossed."""
    seen = set()
    for group in groups:
        unknown = [name for name in group if name not in KINDS]
        if unknown:
            raise ValueError(f"target_crosses: {unknown[0]} is none of I1 to I13, C1 to C26")
        if len(group) < 2 or len(set(group)) < len(group):
            raise ValueError(f"target_crosses: {list(group)} needs two columns or more, each once")
        if frozenset(group) in seen:
            raise ValueError(f"target_crosses: {list(group)} is there twice")
        seen.add(frozenset(group))


def dense_settings(settings: RankingWorkflowSettings, name: str) -> ColumnSettings:
    """How one dense column is treated, nothing left open."""
    every = {
        "missing": 0.0,
        "clip_min": 0.0,
        "transform": settings.dense_transform,
        "scale": settings.dense_scale,
    }
    own = settings.columns.get(name, ColumnSettings())
    given = {option: getattr(own, option) for option in own.model_fields_set}
    # An explicit null of clip_min takes the clipping away; of the others, it says nothing.
    kept = {k: v for k, v in given.items() if v is not None or k == "clip_min"}
    return ColumnSettings.model_construct(**{**every, **kept, "bucketize": ()})


def build(settings: RankingWorkflowSettings) -> Workflow:
    """The unfitted NVTabular workflow.

    Dense: blank → 0, clipped below at 0, log(1 + x), standardised to float32, unless a column is
    set otherwise. Categorical: codes as in :class:`workflows.ops.Categorify`, int32. The label
    passes through as float32. Further columns come last, as the settings ask for them.
    """
    label = [LABEL] >> AsFloat() >> ops.AddMetadata(tags=[Tags.TARGET, Tags.BINARY_CLASSIFICATION])
    dense, indicators = _dense(settings)
    codes = category_codes(
        settings, CATEGORICAL, settings.freq_threshold, settings.max_size, settings.num_buckets
    )
    branches = [label, *dense, *codes, *buckets(settings, DENSE), *_statistics(settings)]
    if settings.dense_levels:
        branches.append(DENSE >> LogSquared() >> Categorify(settings.freq_threshold))
    return Workflow(reduce(add, branches + indicators))


def _dense(settings: RankingWorkflowSettings) -> tuple[list[Any], list[Any]]:
    """Branches of the dense columns, and of the indicators of their missing values."""
    branches, indicators = [], []
    treated = {name: dense_settings(settings, name) for name in DENSE}
    groups = grouped(DENSE, lambda name: treated[name].model_dump_json())
    for names in groups.values():
        how = treated[names[0]]
        branches.append(scaled(names, names >> fill(how), how))
    if settings.missing_indicators:
        both = DENSE >> ops.FillMissing(fill_val=0, add_binary_cols=True)
        filled = both[[f"{name}_filled" for name in DENSE]]
        indicators.append(filled >> AsFloat() >> ops.AddMetadata(tags=[Tags.CONTINUOUS]))
    return branches, indicators


def _statistics(settings: RankingWorkflowSettings) -> list[Any]:
    """Branches of what is known of a value from training: the label's mean, the count."""
    branches = []
    if settings.target_encoding or settings.target_crosses:
        how = settings.target_folds, settings.target_smoothing, settings.target_scale == "log_odds"
        joint = JointValues(settings.target_crosses, counts=tuple(DENSE))
        operator = TargetEncoding(
            settings.target_encoding, LABEL, TRAINING, *how, joint, settings.target_counts
        )
        branches.append([*DENSE, *CATEGORICAL, TRAINING, LABEL] >> operator)
    if settings.counts:
        branches.append(list(settings.counts) >> CountEncoding())
    return branches


def raw_schema() -> Schema:
    """Schema of the raw Parquet as the workflow reads it (nullable integers arrive as floats)."""
    return Schema(
        [ColumnSchema(LABEL, dtype=np.int8)]
        + [ColumnSchema(name, dtype=np.float64) for name in DENSE]
        + [ColumnSchema(name, dtype=np.float64) for name in CATEGORICAL]
        + [ColumnSchema(TRAINING, dtype=np.int8)]
    )


def for_split(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """``frame`` with the column that says whether its rows train."""
    marked = frame.copy(deep=False)
    marked[TRAINING] = np.int8(split == "train")
    return marked
