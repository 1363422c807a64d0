"""The ranking workflow: the columns of a click log → labels, dense floats and category codes."""

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import add
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from core.merlin import ColumnSchema, Schema, Tags, Workflow, ops
from workflows.columns import (
    CATEGORICAL_OPTIONS,
    MOST_BUCKETS,
    ColumnSettings,
    Kind,
    VectorWidth,
    VocabularySettings,
    buckets,
    category_codes,
    check_kind,
    fill,
    grouped,
    per_column,
    scaled,
)
from workflows.names import check_names, of_each, of_group, of_vectors
from workflows.ops import (
    AsFloat,
    Categorify,
    CountEncoding,
    JointValues,
    LogSquared,
    TargetEncoding,
)
from workflows.ops.count_encoding import SUFFIX as COUNT_SUFFIX
from workflows.ops.log_squared import SUFFIX as LEVEL_SUFFIX
from workflows.ops.split_vector import SplitVector

LABEL = "label"
DENSE = tuple(f"I{i}" for i in range(1, 14))
CATEGORICAL = tuple(f"C{i}" for i in range(1, 27))
TRAINING = "training"
"""Says of a raw row whether it trains: only such a row is encoded out of its fold."""


class RankingWorkflowSettings(VocabularySettings):
    """How the raw columns of a click log, Criteo's unless others are named, become features."""

    labels: tuple[str, ...] = Field((LABEL,), min_length=1)
    """Columns of 0 and 1 to predict. Models of one label predict the first, which is also what
    target encodings are means of; those of several labels take all."""
    continuous: tuple[str, ...] = DENSE
    """Columns of numbers, the dense ones."""
    categorical: tuple[str, ...] = CATEGORICAL
    """Columns of ids or texts."""
    multi_valued: tuple[str, ...] = ()
    """Columns with several ids or texts a row: lists of codes, of which models take the mean of the
    vectors. A row without a value has the code for missing ones; a value that a row has twice
    counts twice. freq_threshold counts values, not rows."""
    max_values: int = Field(0, ge=0)
    """Most values that are kept of a row of multi_valued columns, the first ones; 0 means all."""
    vectors: dict[str, VectorWidth] = Field(default_factory=dict)
    """Columns of ``source.columns.vectors`` (text or image embeddings) and their widths: passed on
    as they are, as one dense column a dimension, ``NAME_0`` and on; a missing vector is all zeros.
    """
    freq_threshold: int = Field(5, ge=1)
    """A value seen fewer times than this in the training rows gets an out-of-vocabulary code."""
    max_size: int = Field(0, ge=0)
    """Most codes a column may have, the reserved ones included; 0 means no cap."""
    num_buckets: int = Field(1, ge=1, le=MOST_BUCKETS)
    """Codes that a column's out-of-vocabulary values share, by a hash of the value."""
    missing_indicators: bool = False
    """Adds a 0/1 column for each dense column, saying where it was blank."""
    dense_missing: float | Literal["median"] = 0.0
    """What a missing value of a dense column becomes; median: that of the training rows."""
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
        kinds = self.kinds()
        self.check_columns(kinds)
        for setting in ("target_encoding", "counts"):
            names = getattr(self, setting)
            for name in names:
                check_kind(kinds, name, setting, "categorical")
            if len(set(names)) < len(names):
                raise ValueError(f"{setting}: {list(names)} names a column twice")
        check_crosses(self.target_crosses, kinds)
        for group in self.shared_vocabularies:
            for option in CATEGORICAL_OPTIONS:
                found = per_column(self, option, group, getattr(self, option))
                if isinstance(found, dict) and len(set(found.values())) > 1:
                    raise ValueError(
                        f"shared_vocabularies: {', '.join(group)} need the same {option}"
                    )
        for name in self.continuous:
            how = dense_settings(self, name)
            if how.transform == "log" and (how.clip_min is None or how.clip_min <= -1):
                raise ValueError(f"columns.{name}: transform log needs clip_min above -1")
            lowest = -np.inf if how.clip_min is None else how.clip_min
            if how.clip_max is not None and how.clip_max <= lowest:
                raise ValueError(f"columns.{name}: clip_max is not above {how.clip_min}")
        check_names(self.own_names(), self.made_names(), self.made_keys())
        return self

    def made_names(self) -> Iterator[tuple[str, str]]:
        yield TRAINING, "the mark of rows that train"
        yield from super().made_names()
        yield from of_vectors(self.vectors)
        if self.missing_indicators:
            yield from of_each(self.continuous, "missing_indicators", "{}_filled")
        if self.dense_levels:
            yield from of_each(self.continuous, "dense_levels", f"{{}}{LEVEL_SUFFIX}")
        yield from of_each(self.counts, "counts", f"{{}}{COUNT_SUFFIX}")
        forms = [f"TE_{{}}_{self.labels[0]}"]
        forms += [f"{forms[0]}_count"] if self.target_counts else []
        yield from of_each(self.target_encoding, "target_encoding", *forms)
        for group in self.target_crosses:
            for form in forms:
                yield of_group(group, "target_crosses", form)

    def kinds(self) -> dict[str, Kind]:
        """The columns that become features by their kinds.

        Raises:
            ValueError: a column is named as two things, or there is none.
        """
        coded = [*self.categorical, *self.multi_valued]
        names = [*self.labels, *self.continuous, *coded, *self.vectors]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))}: a column can be one feature only")
        if len(names) == len(self.labels):
            raise ValueError(
                "name at least one of continuous, categorical, multi_valued and vectors"
            )
        kinds: dict[str, Kind] = dict.fromkeys(self.continuous, "continuous")
        kinds |= dict.fromkeys(self.categorical, "categorical")
        return kinds | dict.fromkeys(self.multi_valued, "multi_valued")


def check_crosses(groups: tuple[tuple[str, ...], ...], kinds: Mapping[str, Kind]) -> None:
    """Raises ValueError where ``target_crosses`` names what cannot be crossed."""
    seen = set()
    for group in groups:
        for name in group:
            check_kind(kinds, name, "target_crosses", "continuous", "categorical")
        if len(group) < 2 or len(set(group)) < len(group):
            raise ValueError(f"target_crosses: {list(group)} needs two columns or more, each once")
        if frozenset(group) in seen:
            raise ValueError(f"target_crosses: {list(group)} is there twice")
        seen.add(frozenset(group))


def dense_settings(settings: RankingWorkflowSettings, name: str) -> ColumnSettings:
    """How one dense column is treated, nothing left open."""
    every = {
        "missing": settings.dense_missing,
        "transform": settings.dense_transform,
        "scale": settings.dense_scale,
    }
    own = settings.columns.get(name, ColumnSettings())
    given = {option: getattr(own, option) for option in own.model_fields_set}
    # An explicit null of clip_min takes the clipping away; of the others, it says nothing.
    kept = {k: v for k, v in given.items() if v is not None or k == "clip_min"}
    logged = kept.get("transform", settings.dense_transform) == "log"
    every["clip_min"] = 0.0 if logged else None
    return ColumnSettings.model_construct(**{**every, **kept, "bucketize": ()})


def build(settings: RankingWorkflowSettings) -> Workflow:
    """The unfitted NVTabular workflow.

    Dense: blank → 0, clipped below at 0, log(1 + x), standardised to float32, unless the settings
    say otherwise. Categorical: codes as in :class:`workflows.ops.Categorify`, int32. Labels
    pass through as float32. Further columns come last, as the settings ask for them.
    """
    tags = [Tags.TARGET, Tags.BINARY_CLASSIFICATION]
    labels = list(settings.labels) >> AsFloat() >> ops.AddMetadata(tags=tags)
    dense, indicators = _dense(settings)
    names = [*settings.categorical, *settings.multi_valued]
    numbers = list(settings.continuous)
    first = dict.fromkeys(settings.multi_valued, settings.max_values) if settings.max_values else {}
    codes = category_codes(
        settings, names, settings.freq_threshold, settings.max_size, settings.num_buckets, first
    )
    branches = [labels, *dense, *codes, *buckets(settings, numbers), *_statistics(settings)]
    if settings.dense_levels and numbers:
        branches.append(numbers >> LogSquared() >> Categorify(settings.freq_threshold))
    if settings.vectors:
        vectors = list(settings.vectors) >> SplitVector(settings.vectors)
        branches.append(vectors >> ops.AddMetadata(tags=[Tags.CONTINUOUS]))
    return Workflow(reduce(add, branches + indicators))


def _dense(settings: RankingWorkflowSettings) -> tuple[list[Any], list[Any]]:
    """Branches of the dense columns, and of the indicators of their missing values."""
    branches, indicators = [], []
    treated = {name: dense_settings(settings, name) for name in settings.continuous}
    groups = grouped(treated, lambda name: treated[name].model_dump_json())
    for names in groups.values():
        how = treated[names[0]]
        branches.append(scaled(names, names >> fill(how), how))
    if settings.missing_indicators and treated:
        both = list(treated) >> ops.FillMissing(fill_val=0, add_binary_cols=True)
        filled = both[[f"{name}_filled" for name in treated]]
        indicators.append(filled >> AsFloat() >> ops.AddMetadata(tags=[Tags.CONTINUOUS]))
    return branches, indicators


def _statistics(settings: RankingWorkflowSettings) -> list[Any]:
    """Branches of what is known of a value from training: the label's mean, the count."""
    branches = []
    if settings.target_encoding or settings.target_crosses:
        how = settings.target_folds, settings.target_smoothing, settings.target_scale == "log_odds"
        joint = JointValues(settings.target_crosses, counts=settings.continuous)
        label = settings.labels[0]
        operator = TargetEncoding(
            settings.target_encoding, label, TRAINING, *how, joint, settings.target_counts
        )
        known = [*settings.continuous, *settings.categorical]
        branches.append([*known, TRAINING, label] >> operator)
    if settings.counts:
        branches.append(list(settings.counts) >> CountEncoding())
    return branches


def raw_columns(settings: RankingWorkflowSettings) -> list[str]:
    """The columns of the raw Parquet that the workflow reads."""
    coded = *settings.categorical, *settings.multi_valued
    named = settings.labels, settings.continuous, coded, settings.vectors
    return [name for names in named for name in names]


def raw_schema(settings: RankingWorkflowSettings) -> Schema:
    """Schema of the raw Parquet as the workflow reads it (nullable integers arrive as floats)."""
    types = dict.fromkeys(raw_columns(settings), np.float64)
    types |= dict.fromkeys(settings.labels, np.int8) | {TRAINING: np.int8}
    lists = {"is_list": True, "is_ragged": True}
    return Schema(
        [
            ColumnSchema(name, dtype=dtype, **(lists if name in settings.multi_valued else {}))
            for name, dtype in types.items()
        ]
    )


def for_split(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """``frame`` with the column that says whether its rows train."""
    marked = frame.copy(deep=False)
    marked[TRAINING] = np.int8(split == "train")
    return marked
