"""The ranking workflow: Criteo's columns → a label, dense floats and category codes."""

from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from core.merlin import ColumnSchema, Schema, Tags, Workflow, ops
from core.settings import Settings
from workflows.ops import AsFloat, Categorify, Normalize

LABEL = "label"
DENSE = [f"I{i}" for i in range(1, 14)]
CATEGORICAL = [f"C{i}" for i in range(1, 27)]


class RankingWorkflowSettings(Settings):
    """How raw Criteo columns become features."""

    freq_threshold: int = Field(5, ge=1)
    """A value seen fewer times than this in the training rows gets the out-of-vocabulary code."""
    max_size: int = Field(0, ge=0)
    """Most codes a column may have, the three reserved ones included; 0 means no cap."""
    missing_indicators: bool = False
    """Adds a 0/1 column for each dense column, saying where it was blank."""
    dense_transform: Literal["log", "none"] = "log"
    """log: log(1 + x) after clipping at zero (Criteo's counts are heavy-tailed)."""


def build(settings: RankingWorkflowSettings) -> Workflow:
    """The unfitted NVTabular workflow.

    Dense: blank → 0, clipped below at 0, log(1 + x), standardised to float32. Categorical: codes
    as in :class:`workflows.ops.Categorify`, int32. The label passes through as float32.
    """
    codes = CATEGORICAL >> Categorify(settings.freq_threshold, settings.max_size)
    filled = DENSE >> ops.FillMissing(fill_val=0, add_binary_cols=settings.missing_indicators)
    indicators = None
    if settings.missing_indicators:
        indicators = filled[[f"{name}_filled" for name in DENSE]] >> AsFloat()
        filled = filled[DENSE]
    dense = filled >> ops.Clip(min_value=0)
    if settings.dense_transform == "log":
        dense = dense >> ops.LogOp()
    dense = dense >> Normalize()
    label = [LABEL] >> AsFloat() >> ops.AddMetadata(tags=[Tags.TARGET, Tags.BINARY_CLASSIFICATION])
    graph = label + dense + codes
    return Workflow(graph if indicators is None else graph + indicators)


def raw_schema() -> Schema:
    """Schema of the raw Parquet as the workflow reads it (nullable integers arrive as floats)."""
    return Schema(
        [ColumnSchema(LABEL, dtype=np.int8)]
        + [ColumnSchema(name, dtype=np.float64) for name in DENSE]
        + [ColumnSchema(name, dtype=np.float64) for name in CATEGORICAL]
    )


def empty_frame() -> pd.DataFrame:
    """A frame of no rows with the columns and types of :func:`raw_schema`."""
    types = {LABEL: np.int8} | dict.fromkeys(DENSE + CATEGORICAL, np.float64)
    return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in types.items()})
