"""Raw logs in, predictions out, from an exported bundle alone."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from core import strict
from core.artifacts import atomic_path, write_parquet
from core.console import progress, say
from core.errors import UserError
from core.merlin import Workflow
from core.outputs import claimed_file, scratch_beside
from core.parquet import read_frame
from core.settings import validate
from core.strict import Record, checked, printable
from core.sums import Contents, reading
from pipeline import preprocess_ranking, sessionize
from pipeline.feature_folder import SCHEMA, read_schema
from pipeline.ingest.inputs import list_inputs, named_inputs
from pipeline.ingest.source import SourceSettings
from pipeline.model_folder import MODEL_FILE, load_model
from pipeline.params import settings_class
from pipeline.stages.export import BUNDLE_FILE, STATE
from pipeline.stages.ingest import ingest, set_aside
from workflows import ranking as ranking_workflow
from workflows import sessions as sessions_workflow
from workflows.ops import spill
from workflows.state import STATE_FILE, difference, load_state, saved_schema, stat_operators

ROWS_AT_ONCE = 100_000
MOST_BLOCK_BYTES, LEAST_ROWS_PER_SHARD = 64 << 20, 1000
SESSIONS_AT_ONCE = 256
MOST_HEADER = 1000
MAX_BAD_FRACTION = SourceSettings().max_bad_fraction


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
            if self.recipe == "sessions":
                self._order_items()

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

    def _order_items(self) -> None:
        """Sets the items' vocabulary, and their order by frequency; lets go of the counts."""
        coded = (op for op in stat_operators(self.workflow) if "item_id" in _coded(op))
        self.encoder = next(coded, None)
        if self.encoder is None:
            raise UserError(
                f"{self.folder / STATE / STATE_FILE}: operators: none has a vocabulary of item_id"
            )
        self.frequent_items = by_frequency(self.encoder)
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
            "rows_per_shard": max(settings.rows_per_shard, LEAST_ROWS_PER_SHARD),
        }
    )


def check_finite(scores: np.ndarray, of: Callable[[int], str], bundle: str | Path) -> None:
    """Checks that scores are finite numbers.

    Args:
        of: what the first score that is none is of, by its number among the rows.

    Raises:
        UserError: they are not; nothing is written then.
    """
    wrong = ~np.isfinite(scores)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{bundle}: {int(wrong.sum()):,} of {len(scores):,} scores are no finite numbers, the "
            f"first that of {of(first)}; nothing was written. Check the values of that row in the "
            "log, and where the bundle is from"
        )


def check_name(output: str | Path) -> None:
    """Before any work: the ending of the output's name must say how to write it."""
    if Path(output).suffix not in (".parquet", ".csv"):
        raise UserError(f"{output}: expected a name ending in .parquet or .csv")


def write_table(frame: pl.DataFrame, output: str | Path) -> None:
    """Writes ``.parquet`` or ``.csv``, by the name's ending, atomically."""
    if Path(output).suffix == ".parquet":
        write_parquet(output, frame.to_arrow())
        return
    with atomic_path(output) as partial:
        frame.write_csv(partial)


SCORED = ["row", "probability"]
RECOMMENDED = [[owner, "rank", "item_id", "score"] for owner in ("session_id", "user_id")]
"""Columns of what is written, by which an earlier output is known."""


@contextlib.contextmanager
def _claimed(
    output: str | Path, bundle: str | Path, input: str | Path, columns: list[list[str]]
) -> Iterator[tuple[Path, Path]]:
    """Claims the file to write; gives it, and a folder for the typed log beside it."""
    inputs = [bundle, *named_inputs(input, list_inputs(input))]
    with (
        claimed_file(output, inputs, lambda path: _columns(path) in columns) as file,
        scratch_beside(file) as scratch,
    ):
        yield file, scratch


def _columns(path: Path) -> list[str]:
    """The columns of a table that was written; empty where it is none."""
    try:
        if path.suffix == ".parquet":
            return pq.read_schema(path).names
        with open(path, encoding="utf-8") as file:
            return file.readline(MOST_HEADER).rstrip("\n").split(",")
    except (OSError, ValueError, pa.ArrowException):
        return []


def score(
    bundle: str | Path,
    input: str | Path,
    output: str | Path,
    max_bad_fraction: float = MAX_BAD_FRACTION,
) -> pl.DataFrame:
    """The click probability of every row of a raw click log; of several labels the first's. A log
    with columns of its own needs no labels.

    Args:
        max_bad_fraction: share of lines that may be quarantined before it fails.

    Returns:
        ``row`` (from 0, in input order, of the rows that could be read) and ``probability``, as
        written to ``output``.

    Raises:
        UserError: the bundle or the log is not there or of another kind, or too many lines are bad.
    """
    check_name(output)
    loaded = Bundle(bundle)
    loaded.require("ranking", "score")
    with _claimed(output, bundle, input, [SCORED]) as (file, scratch):
        source = loaded.source_with(max_bad_fraction).without_labels()
        manifest = ingest("ranking", source, input, scratch / "raw", quiet=True)
        found = np.concatenate(list(_probabilities(loaded, scratch / "raw", manifest)))
        check_finite(found, lambda row: f"row {row:,}", bundle)
        scored = pl.DataFrame({"probability": found}).with_row_index("row")
        write_table(scored, file)
    say(f"score: {', '.join([f'{len(scored):,} rows', *set_aside(manifest)])} → {output}")
    return scored


def _probabilities(loaded: Bundle, raw: Path, manifest: dict[str, Any]) -> Iterator[np.ndarray]:
    import torch

    read = preprocess_ranking.RowReader(
        loaded.preprocess.workflow, labelled=loaded.source.columns is None
    )
    with progress("scoring", manifest["rows_written"], "rows") as advance:
        for shard in manifest["shards"]:
            for first in range(0, shard["rows"], ROWS_AT_ONCE):
                last = min(shard["rows"], first + ROWS_AT_ONCE)
                path = str(raw / shard["file"])
                rows = read((path, first, last), "test")
                frame = loaded.transform(rows)
                names = loaded.model.input_names
                inputs = {name: torch.from_numpy(frame[name].to_numpy()) for name in names}
                with torch.inference_mode():
                    yield torch.sigmoid(loaded.model(inputs).double()).numpy()
                advance(last - first)


def recommend(
    bundle: str | Path,
    input: str | Path,
    output: str | Path,
    k: int = 20,
    max_bad_fraction: float = MAX_BAD_FRACTION,
) -> pl.DataFrame:
    """The ``k`` items most likely to come next in every session of a raw clickstream.

    Left out is what the evaluation leaves out, by the settings ``sessions.evaluate`` that the
    bundle was exported with: the item viewed last, or all items that the session held. A list is
    shorter than ``k`` where fewer items are left. A session of which no item is known gets the most
    frequent items of the training log.

    Where the sessions are cut from users' events at pauses, their ids say nothing outside this
    call: then each user gets one list, for the session of theirs in the input that starts last.

    Args:
        k: most items of a list.
        max_bad_fraction: share of lines that may be quarantined before it fails.

    Returns:
        ``session_id``, or ``user_id`` as in the raw log where sessions are cut from users' events;
        ``rank`` (from 1), ``item_id`` (as in the raw log) and ``score``, as written to ``output``.

    Raises:
        UserError: ``k`` is below 1, the bundle or the log is not there or of another kind, or too
            many lines are bad.
    """
    check_name(output)
    if k < 1:
        raise UserError(f"k: expected an integer of at least 1, got {k}")
    loaded = Bundle(bundle)
    loaded.require("sessions", "recommend")
    with _claimed(output, bundle, input, RECOMMENDED) as (file, scratch):
        k = min(k, len(loaded.encoder.vocabulary["item_id"]))
        owner = "session_id" if loaded.source.session_gap_minutes is None else "user_id"
        source = needed_columns(loaded.source_with(max_bad_fraction), loaded.workflow)
        manifest = ingest("sessions", source, input, scratch / "raw", quiet=True)
        events = _events(scratch / "raw", manifest, loaded.workflow, owner)
        recommended = _recommended(loaded, events, owner, k)
        write_table(recommended, file)
    listed = recommended[owner].n_unique()
    told = [f"{listed:,} {owner.removesuffix('_id')}s", f"at most {k} items each"]
    say(f"recommend: {', '.join([*told, *set_aside(manifest)])} → {output}")
    return recommended


def _recommended(loaded: Bundle, events: pl.DataFrame, owner: str, k: int) -> pl.DataFrame:
    """The lists of all sessions, or of each user's that starts last."""
    if owner == "user_id":
        events = _latest_sessions(events)
    if loaded.preprocess.sessions.drop_repeats:
        events = events.filter(~sessionize.repeats())
    sessions = loaded.workflow.transform(sessionize.to_pandas(events.to_arrow()))
    recommended = pl.concat(_lists(loaded, sessions, k))
    if owner == "user_id":
        users = events.select("session_id", "user_id").unique()
        recommended = users.join(recommended, on="session_id", maintain_order="right")
        recommended = recommended.drop("session_id")
    return recommended


def _lists(loaded: Bundle, sessions: pd.DataFrame, k: int) -> Iterator[pl.DataFrame]:
    """``session_id``, ``rank``, ``item_id`` and ``score``, some sessions at a time."""
    items, first_code = loaded.encoder.vocabulary["item_id"], loaded.encoder.first_value("item_id")
    unknown = np.full(loaded.model.num_items, -np.inf, np.float32)
    unknown[first_code + loaded.frequent_items] = -np.arange(len(items))
    with progress("recommending", len(sessions), "sessions") as advance:
        for first in range(0, len(sessions), SESSIONS_AT_ONCE):
            chunk = sessions.iloc[first : first + SESSIONS_AT_ONCE]
            codes, scores = _next_items(loaded, chunk, unknown, k)
            # Where fewer than k items are left, what is left out fills the list.
            row, place = np.nonzero(scores != -np.inf)
            yield pl.DataFrame(
                {
                    "session_id": pl.Series(chunk["session_id"].to_numpy())[row],
                    "rank": place + 1,
                    "item_id": pl.Series(items.take(codes[row, place] - first_code)),
                    "score": scores[row, place],
                }
            )
            advance(len(chunk))


def by_frequency(encoder: Any) -> np.ndarray:
    """Positions in the vocabulary of items, those seen most often in training first.

    Without counts they are in the order of codes, which is that of frequency unless the vocabulary
    grew.
    """
    items = encoder.vocabulary["item_id"]
    seen = np.zeros(len(items), np.int64)
    if "item_id" in encoder.counts:
        for values, counts in spill.batches(encoder.counts["item_id"]):
            positions = pc.index_in(values, value_set=items)
            coded = positions.is_valid()
            seen[positions.filter(coded)] = counts[coded]
    return np.argsort(-seen, kind="stable")


def _coded(operator: Any) -> dict[str, Any]:
    return getattr(operator, "vocabulary", {})


def needed_columns(source: Any, workflow: Workflow) -> Any:
    """The source settings without the columns that the workflow does not read.

    The user stays where sessions are cut by user.
    """
    used = {*workflow.input_schema.column_names, "session_id", "item_id", "timestamp"}
    if source.columns.session_id is None:
        used.add("user_id")
    if source.keep_event_types is not None:
        used.add("event_type")
    unused = {name: None for name in type(source.columns).model_fields if name not in used}
    columns = source.columns.model_copy(update=unused)
    return source.model_copy(update={"columns": columns})


def _events(raw: Path, manifest: dict[str, Any], workflow: Workflow, owner: str) -> pl.DataFrame:
    """All events in session and time order: the columns that the workflow reads, and ``owner``."""
    columns = workflow.input_schema.column_names
    missing = [name for name in columns if name not in manifest["columns"]]
    if missing:
        raise UserError(f"the log lacks the column {', '.join(missing)}, which the model was given")
    if not manifest["shards"]:
        kept = manifest["source"]["keep_event_types"]
        raise UserError(f"no event of the log is of a type that sessions.source keeps: {kept}")
    columns = list(dict.fromkeys([*columns, owner]))
    shards = [raw / shard["file"] for shard in manifest["shards"]]
    events = pl.concat([read_frame(shard, columns) for shard in shards])
    return events.sort(sessionize.SESSION, sessionize.TIME, maintain_order=True)


def _latest_sessions(events: pl.DataFrame) -> pl.DataFrame:
    """The events of each user's session that starts last."""
    start = pl.col(sessionize.TIME).min().over(sessionize.SESSION)
    return events.filter(start == start.max().over("user_id"))


def _known_events(loaded: Bundle, chunk: pd.DataFrame, drop_repeats: bool) -> Any:
    """The sessions as the model takes them, without events of unknown items."""
    import torch

    from training.sessions import ragged

    item, names = loaded.model.item, loaded.model.columns
    offsets = np.zeros(len(chunk) + 1, np.int64)
    np.cumsum([len(items) for items in chunk[item]], out=offsets[1:])
    columns = {name: torch.from_numpy(np.concatenate(chunk[name].to_list())) for name in names}
    sessions = ragged.drop_unknown(ragged.Sessions(columns, torch.from_numpy(offsets)), item)
    return ragged.drop_repeats(sessions, item) if drop_repeats else sessions


def _next_items(
    loaded: Bundle, chunk: pd.DataFrame, unknown: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scores of the best ``k`` next items, each ``(sessions, k)``; the score of what is
    left out is minus infinity.

    ``unknown``: the scores for a session of which no item is known, ``(num_items,)``.
    """
    import torch

    from training.sessions import ragged

    model, evaluation = loaded.model, loaded.evaluation
    sessions = _known_events(loaded, chunk, evaluation.drop_repeats)
    items = sessions.columns[model.item].long()
    known = sessions.lengths > 0
    steps = sessions.offsets[1:][known] - 1
    scores = torch.from_numpy(unknown).repeat(len(chunk), 1)
    with torch.inference_mode():
        if len(steps):
            windows = ragged.windows_through(sessions, steps, model.max_length)
            found = model.scores(ragged.pad(sessions, windows)).float()
            kept = found[:, ragged.FIRST_ITEM :].isfinite().all(1).numpy()
            ids = chunk["session_id"].to_numpy()[known.numpy()]
            check_finite(
                np.where(kept, 0.0, np.nan), lambda n: f"session {ids[n]!r}", loaded.folder
            )
            scores[known] = found
        # As training/sessions/evaluation.py leaves them out, over the whole session.
        if evaluation.exclude_seen:
            scores[sessions.session_of_event(), items] = -torch.inf
        elif evaluation.exclude_last_item and evaluation.drop_repeats:
            scores[known.nonzero().squeeze(1), items[steps]] = -torch.inf
        scores[:, : ragged.FIRST_ITEM] = -torch.inf
        best = scores.topk(k, dim=1)
    return best.indices.numpy(), best.values.numpy()
