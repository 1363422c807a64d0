"""The sessions workflow: events in session order → one row a session of ragged feature lists."""

from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from core.errors import UserError
from core.merlin import Tags, Workflow, ops
from workflows.columns import (
    ColumnSettings,
    Kind,
    VectorWidth,
    VocabularySettings,
    buckets,
    category_codes,
    grouped,
    scaled,
)
from workflows.names import check_names, of_vectors
from workflows.ops import AsFloat, Categorify, FillMedian, Normalize, SessionClock, SessionLists
from workflows.ops.fill_clip import FillMissing
from workflows.ops.session_clock import GAP, HOUR_COS, HOUR_SIN
from workflows.ops.session_lists import START
from workflows.ops.split_vector import SplitVector

ITEM = "item_id"
PRICE = "price"
KEYS = ["session_id", "timestamp"]
USUAL = ("category", "brand", "price")
"""Columns that are taken where the log has them; others that are named must be there."""


class SessionsWorkflowSettings(VocabularySettings):
    """How clickstream events become session features."""

    categorical: tuple[str, ...] = ("category", "brand")
    """Columns encoded beside item_id, such as ``event_type`` or those of
    ``source.extra_categorical``; category and brand where the raw log has them."""
    continuous: tuple[str, ...] = ("price",)
    """Columns standardised, such as those of ``source.extra_continuous``, price where the raw log
    has it; missing values become the mean."""
    log_columns: tuple[str, ...] = ("price",)
    """Those of ``continuous`` to which log(1 + x) is applied first (not for values below zero)."""
    vectors: dict[str, VectorWidth] = Field(default_factory=dict)
    """Columns of ``source.vectors`` (text or image embeddings) and their widths: passed on as they
    are, as one list column a dimension, ``NAME_0`` and on; a missing vector is all zeros."""
    item_freq_threshold: int = Field(1, ge=1)
    """An item seen fewer times in the training sessions gets the out-of-vocabulary code."""
    side_freq_threshold: int = Field(1, ge=1)
    """The same for the other categorical columns."""
    max_items: int = Field(0, ge=0)
    """Most item codes, the three reserved ones included; 0 means no cap."""

    @model_validator(mode="after")
    def _columns_fit(self) -> "SessionsWorkflowSettings":
        kinds: dict[str, Kind] = dict.fromkeys(self.categorical, "categorical")
        kinds |= dict.fromkeys(self.continuous, "continuous")
        self.check_columns(kinds)
        names = [*self.categorical, *self.continuous, *self.vectors]
        twice = {name for name in names if names.count(name) > 1 or name in (ITEM, *KEYS)}
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))}: a column can be one feature only")
        check_names(self.own_names(), self.made_names(), self.made_keys())
        return self

    def made_names(self) -> Iterator[tuple[str, str]]:
        yield from ((name, "a column that every log has") for name in (ITEM, *KEYS))
        yield START, "the start of the session, which is always made"
        yield GAP, "the time since the event before, which is always made"
        for name in (HOUR_SIN, HOUR_COS):
            yield name, "the hour of the event, which is always made"
        yield from super().made_names()
        yield from of_vectors(self.vectors)


def build(settings: SessionsWorkflowSettings, columns: list[str]) -> Workflow:
    """The unfitted NVTabular workflow for a raw log that has ``columns``.

    Out come ``session_id``, ``start``, and as ragged lists of equal length: ``item_id`` and the
    other categorical columns as int32 codes, the continuous ones standardised, ``hour_sin``,
    ``hour_cos`` and ``gap`` (see :class:`workflows.ops.SessionClock`) as float32.

    Raises:
        UserError: a column that the settings name is not in the log.
    """
    settings = _present(settings, columns)
    items = (
        [ITEM]
        >> Categorify(settings.item_freq_threshold, settings.max_items)
        >> ops.AddMetadata(tags=[Tags.ITEM_ID, Tags.ITEM])
    )
    features = KEYS + items
    if settings.categorical:
        names = list(settings.categorical)
        for branch in category_codes(settings, names, settings.side_freq_threshold):
            features = features + branch
    for branch in [*_continuous(settings), *buckets(settings, settings.continuous)]:
        features = features + branch
    if settings.vectors:
        features = features + (list(settings.vectors) >> SplitVector(settings.vectors))
    clock = KEYS >> SessionClock()
    features = features + (clock >> Normalize())
    return Workflow(features >> SessionLists())


def _present(settings: SessionsWorkflowSettings, columns: list[str]) -> SessionsWorkflowSettings:
    """The settings without the usual columns that this log does not have."""
    named = {
        "categorical": settings.categorical,
        "continuous": settings.continuous,
        "vectors": settings.vectors,
    }
    kept: dict[str, Any] = {}
    for setting, names in named.items():
        missing = [name for name in names if name not in columns and name not in USUAL]
        if missing:
            raise UserError(
                f"sessions.preprocess.workflow.{setting}: the raw log has no column "
                f"{', '.join(missing)} (it has {', '.join(columns)}); name it in sessions.source "
                "(columns, extra_categorical, extra_continuous, vectors) and run ingest again"
            )
        if setting != "vectors":
            kept[setting] = tuple(name for name in names if name in columns)
    absent = {*settings.categorical, *settings.continuous} - {*columns}
    crosses = tuple(cross for cross in settings.crosses if not absent & {*cross.columns})
    shared = tuple(group for group in settings.shared_vocabularies if not absent & {*group})
    kept |= {"crosses": crosses, "shared_vocabularies": shared}
    return settings.model_copy(update=kept)


def column_settings(settings: SessionsWorkflowSettings, name: str) -> ColumnSettings:
    """How one continuous column is treated, nothing left open but how missing values are filled
    (None: by the mean)."""
    logged = name in settings.log_columns
    every = {
        "transform": "log" if logged else "none",
        "clip_min": 0.0 if logged else None,
        "scale": "standard",
    }
    own = settings.columns.get(name, ColumnSettings())
    given = {option: getattr(own, option) for option in own.model_fields_set}
    kept = {option: value for option, value in given.items() if value is not None}
    return ColumnSettings.model_construct(**{**every, **kept, "bucketize": ()})


def _continuous(settings: SessionsWorkflowSettings) -> list[Any]:
    """Branches of the continuous columns, those that are treated alike together."""
    treated = {name: column_settings(settings, name) for name in settings.continuous}
    branches = []
    for names in grouped(treated, lambda name: treated[name].model_dump_json()).values():
        how = treated[names[0]]
        if how.missing == "median":
            branches.append(scaled(names, names >> FillMedian(), how))
        elif how.missing is not None:
            branches.append(scaled(names, names >> FillMissing(fill_val=how.missing), how))
        else:
            # Zero is the mean of what is standardised.
            branches.append(scaled(names, names >> AsFloat(), how) >> FillMissing(fill_val=0.0))
    return branches
