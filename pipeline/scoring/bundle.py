"""A bundle in memory: a trained model with the workflow that feeds it."""

import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from core import strict
from core.errors import UserError
from core.merlin import Workflow
from core.settings import validate
from core.strict import Record, checked, printable
from core.sums import Contents, reading
from pipeline.feature_folder import SCHEMA, read_schema
from pipeline.ingest.clickstream import event_columns
from pipeline.model_folder import MODEL_FILE, load_model
from pipeline.sections import settings_class
from pipeline.stages.export import BUNDLE_FILE, STATE
from workflows import ranking as ranking_workflow
from workflows import sessions as sessions_workflow
from workflows.ops import spill
from workflows.state import STATE_FILE, difference, load_state, saved_schema, stat_operators

MOST_BLOCK_BYTES, LEAST_ROWS_PER_SHARD = 64 << 20, 1000


class BundleRecord(Record):
    """What ``bundle.json`` has to hold."""

    recipe: Literal["ranking", "sessions"]
    preprocess: dict[str, Any]
    source: dict[str, Any]
    evaluate: dict[str, Any] = Field(default_factory=dict)


class Bundle:
    """An exported model with the workflow that feeds it, all in memory.

    It may be a stranger's: every file is checked against its checksum before it is parsed, every
    text against a schema, every size against those of the files; no name leads out of the folder.

    Attributes:
        recipe: ``ranking`` or ``sessions``.
        schema: of the features.
        model: with its weights.
        preprocess, source: the settings of the workflow and of the log.
        evaluation: what of the settings ``sessions.evaluate`` says which items are recommended;
            None for ``ranking``.
        item_events: of ``sessions``, training events of each item of the vocabulary, ``(items,)``.
        workflow: the one that made the training features, with its fitted state.

    Raises:
        UserError: there is no bundle, an older version made it, or something in it is altered or
            not what ``export`` writes; naming the file and the key.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        reading(self._load)

    def _load(self) -> None:
        with Contents(self.folder, BUNDLE_FILE, "export", required=True).watched() as contents:
            contents.check_all()
            path = contents.manifest
            record = checked(BundleRecord, contents.record, path)
            self.recipe = record.recipe
            self.preprocess = self._settings("preprocess", record.preprocess)
            self.source = _source(self._settings("source", record.source))
            self.evaluation = None
            if self.recipe == "sessions":
                self.evaluation = self._settings("evaluate", record.evaluate)
            self.schema = read_schema(self.folder, contents)
            # Mapped files have no place in a bundle, which may be on a medium that is only read.
            scratch = tempfile.gettempdir()
            self.model, about = load_model(
                self.folder, self.schema, contents=contents, scratch=scratch
            )
            if about["recipe"] != self.recipe:
                raise UserError(
                    f"{self.folder / MODEL_FILE}: recipe: {about['recipe']!r}, but {path} says "
                    f"{self.recipe!r}"
                )
            self.workflow = self._workflow(contents)
            self._keep_types()
            if self.recipe == "sessions":
                self._count_items()

    def _settings(self, block: str, given: dict[str, Any]) -> Any:
        """The settings of a block as ``bundle.json`` has them."""
        kind = settings_class(f"{self.recipe}.{block}")
        return strict.settings(kind, given, f"{self.folder / BUNDLE_FILE}: {block}")

    def source_with(self, max_bad_fraction: float) -> Any:
        """How its logs are read, for one that may hold this share of bad lines.

        Raises:
            UserError: the share is not one.
        """
        given = {**self.source.model_dump(), "max_bad_fraction": max_bad_fraction}
        return validate(type(self.source), given, f"{self.recipe}.source")

    def _workflow(self, contents: Contents) -> Workflow:
        """The workflow with its state, which fits the settings and the features' schema."""
        state = self.folder / STATE
        inputs = saved_schema(state, "input", contents)
        where = f"{state / STATE_FILE}: schemas.input"
        if self.recipe == "ranking":
            expected = ranking_workflow.raw_schema(self.preprocess.workflow).column_names
            other = sorted(({*inputs.column_names} ^ {*expected}) - {ranking_workflow.TRAINING})
            if other:
                raise UserError(
                    f"{where}: its columns and those of the settings differ in {other[0]!r}"
                )
        try:
            if self.recipe == "ranking":
                workflow = ranking_workflow.build(self.preprocess.workflow)
            else:
                workflow = sessions_workflow.build(self.preprocess.workflow, inputs.column_names)
        except (ValueError, TypeError, LookupError) as error:
            raise UserError(
                f"{where}: no workflow can be built for it ({printable(error)})"
            ) from error
        load_state(workflow, state, inputs, contents)
        fault = difference(workflow.output_schema, self.schema)
        if fault:
            raise UserError(f"{self.folder / SCHEMA}: does not fit {state / STATE_FILE}: {fault}")
        return workflow

    def _keep_types(self) -> None:
        """Has logs read with the types of the vocabularies, where the settings leave them open."""
        if self.recipe == "sessions":
            read = {column.name for column in event_columns(self.source)}
        else:
            columns = self.source.columns
            read = {*columns.categorical, *columns.multi_valued} if columns else set()
        types: dict[str, str] = {}
        for operator in stat_operators(self.workflow):
            for name, values in _coded(operator).items():
                if name in read and not pa.types.is_null(values.type):
                    types[name] = "integer" if pa.types.is_integer(values.type) else "string"
        self.source = self.source.model_copy(update={"types": {**types, **self.source.types}})

    def _count_items(self) -> None:
        """Sets the items' vocabulary, and how often each was seen; lets go of the counts."""
        coded = (op for op in stat_operators(self.workflow) if "item_id" in _coded(op))
        self.encoder = next(coded, None)
        if self.encoder is None:
            raise UserError(
                f"{self.folder / STATE / STATE_FILE}: operators: none has a vocabulary of item_id"
            )
        self.item_events = events_of_items(self.encoder)
        self.encoder.counts = {}

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The features of raw rows.

        Raises:
            UserError: their values are of other types than those that the workflow was fitted on.
        """
        try:
            return self.workflow.transform(frame)
        except UserError as error:
            raise UserError(f"{self.folder}: {error}") from None

    def require(self, recipe: str, command: str) -> None:
        if self.recipe != recipe:
            raise UserError(
                f"{self.folder}: a bundle of '{self.recipe}'; {command} needs '{recipe}'"
            )


def _source(settings: Any) -> Any:
    """Settings of a log within what this machine has, whatever machine they are from."""
    return settings.model_copy(
        update={
            "path": None,
            "workers": min(settings.workers, os.cpu_count() or 1),
            "block_bytes": min(settings.block_bytes, MOST_BLOCK_BYTES),
            "max_line_bytes": min(settings.max_line_bytes, MOST_BLOCK_BYTES),
            "rows_per_shard": max(settings.rows_per_shard, LEAST_ROWS_PER_SHARD),
        }
    )


def events_of_items(encoder: Any) -> np.ndarray:
    """Training events of each item in the vocabulary, ``(items,)`` int64; zeros without counts."""
    items = encoder.vocabulary["item_id"]
    seen = np.zeros(len(items), np.int64)
    if "item_id" in encoder.counts:
        for values, counts in spill.batches(encoder.counts["item_id"]):
            positions = pc.index_in(values, value_set=items)
            coded = positions.is_valid()
            seen[positions.filter(coded)] = counts[coded]
    return seen


def _coded(operator: Any) -> dict[str, Any]:
    return getattr(operator, "vocabulary", {})
