"""The interactions workflow: (user, item, rating, time) → codes, a target and a scaled time."""

from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from core import frames
from core.merlin import Tags, Workflow, ops
from workflows.columns import Kind, VocabularySettings, category_codes, check_kind
from workflows.names import check_names, of_each
from workflows.ops import (
    AsFloat,
    CountEncoding,
    Normalize,
    NormalizeMinMax,
    TargetEncoding,
)
from workflows.ops.count_encoding import SUFFIX as COUNT_SUFFIX

USER, ITEM, RATING, TIME = "user_id", "item_id", "rating", "timestamp"
TRAINING = "training"
"""Says of a raw row whether it trains: only such a row is encoded out of its fold."""
KINDS: dict[str, Kind] = {USER: "categorical", ITEM: "categorical"}
TAGS = {USER: [Tags.USER_ID, Tags.USER], ITEM: [Tags.ITEM_ID, Tags.ITEM]}


class InteractionsWorkflowSettings(VocabularySettings):
    """How ratings become features."""

    freq_threshold: int = Field(1, ge=1)
    """A user or item seen fewer times in training gets an out-of-vocabulary code."""
    positive_from: float | None = None
    """Where given, the target is 1 from this rating on and 0 below; null: the rating itself."""
    time_scale: Literal["standard", "minmax"] = "standard"
    """How the time of the rating, in seconds, is scaled over the training rows."""
    target_encoding: tuple[str, ...] = ()
    """Of user_id and item_id, those that also become the smoothed mean rating of the training
    rows with that value, ``TE_NAME_rating``: for training rows out of fold."""
    target_folds: int = Field(5, ge=2, le=127)
    """Folds of the target encoding."""
    target_smoothing: float = Field(20.0, ge=0)
    """Rows that the mean of all rows counts for in the target encoding of a value."""
    counts: tuple[str, ...] = ()
    """Of user_id and item_id, those that also become log(1 + training rows with that value)."""

    @model_validator(mode="after")
    def _columns_fit(self) -> "InteractionsWorkflowSettings":
        self.check_columns(KINDS)
        for setting in ("target_encoding", "counts"):
            for name in getattr(self, setting):
                check_kind(KINDS, name, setting, "categorical")
        check_names(self.own_names(), self.made_names(), self.made_keys())
        return self

    def own_names(self) -> Iterator[tuple[str, str]]:
        return ((name, "which every log has") for name in (USER, ITEM, RATING, TIME))

    def made_names(self) -> Iterator[tuple[str, str]]:
        yield from super().made_names()
        yield from of_each(self.target_encoding, "target_encoding", f"TE_{{}}_{RATING}")
        yield from of_each(self.counts, "counts", f"{{}}{COUNT_SUFFIX}")


def build(settings: InteractionsWorkflowSettings) -> Workflow:
    """The unfitted NVTabular workflow.

    Out come ``user_id`` and ``item_id`` as int32 codes (see :class:`workflows.ops.Categorify`),
    ``rating`` (float32; TARGET, with ``positive_from`` a 0/1 of BINARY_CLASSIFICATION, else of
    REGRESSION) and ``timestamp`` (scaled, float32).
    """
    codes = reduce(add, category_codes(settings, [USER, ITEM], settings.freq_threshold))
    scale = Normalize() if settings.time_scale == "standard" else NormalizeMinMax()
    rating = [RATING] >> AsFloat()
    kind = Tags.REGRESSION
    if settings.positive_from is not None:
        rating = rating >> AtLeast(settings.positive_from)
        kind = Tags.BINARY_CLASSIFICATION
    branches = [
        codes[[USER]] >> ops.AddMetadata(tags=TAGS[USER]),
        codes[[ITEM]] >> ops.AddMetadata(tags=TAGS[ITEM]),
        rating >> ops.AddMetadata(tags=[Tags.TARGET, kind]),
        [TIME] >> scale,
    ]
    if settings.crosses:
        branches.append(codes[["_X_".join(cross.columns) for cross in settings.crosses]])
    if settings.target_encoding:
        smoothing = settings.target_folds, settings.target_smoothing
        operator = TargetEncoding(settings.target_encoding, RATING, TRAINING, *smoothing)
        branches.append([USER, ITEM, TIME, TRAINING, RATING] >> operator)
    if settings.counts:
        branches.append(list(settings.counts) >> CountEncoding())
    return Workflow(reduce(add, branches))


class AtLeast(ops.Operator):
    """1 where a value is at least ``least``, else 0, as float32."""

    def __init__(self, least: float):
        super().__init__()
        self.least = least

    def transform(self, col_selector, df):
        ratings = {name: frames.numbers(df[name], np.float32) for name in col_selector.names}
        reached = {name: (found >= self.least).astype("f4") for name, found in ratings.items()}
        return frames.frame_of(df, reached)

    @property
    def output_dtype(self):
        return np.float32


def as_frame(events: pd.DataFrame, split: str) -> pd.DataFrame:
    """Raw ratings as the workflow reads them: the time in seconds, and whether the rows train."""
    milliseconds = events[TIME].astype("datetime64[ms]").astype("int64")
    return events.assign(**{TIME: milliseconds / 1000.0, TRAINING: np.int8(split == "train")})
