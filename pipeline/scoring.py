"""Raw logs in, predictions out, from an exported bundle alone."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from core.artifacts import atomic_path, read_json, write_parquet
from core.console import progress, say
from core.errors import UserError
from core.merlin import Workflow
from pipeline import preprocess_ranking, sessionize
from pipeline.params import settings_class
from pipeline.stages.export import BUNDLE_FILE
from pipeline.stages.ingest import ingest, set_aside
from pipeline.stages.train import load_model, read_schema
from workflows import ranking as ranking_workflow
from workflows import sessions as sessions_workflow
from workflows.state import load_state, saved_schema, stat_operators

ROWS_AT_ONCE = 100_000
SESSIONS_AT_ONCE = 256


class Bundle:
    """An exported model with the workflow that feeds it."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / BUNDLE_FILE).is_file():
            raise UserError(
                f"{folder}: no {BUNDLE_FILE} there; make it by 'merlin-pipeline export'"
            )
        self.record = read_json(self.folder / BUNDLE_FILE)
        self.recipe = self.record["recipe"]
        self.schema = read_schema(self.folder)
        self.model, _ = load_model(self.folder, self.schema)
        preprocessing = settings_class(f"{self.recipe}.preprocess")
        self.preprocess = preprocessing(**self.record["preprocess"])
        self.source = settings_class(f"{self.recipe}.source")(**self.record["source"])

    def workflow(self) -> Workflow:
        """The workflow that made the training features, with its fitted state."""
        inputs = saved_schema(self.folder / "state", "input")
        if self.recipe == "ranking":
            workflow = ranking_workflow.build(self.preprocess.workflow)
        else:
            workflow = sessions_workflow.build(self.preprocess.workflow, inputs.column_names)
        return load_state(workflow, self.folder / "state", inputs)

    def require(self, recipe: str, command: str) -> None:
        if self.recipe != recipe:
            raise UserError(
                f"{self.folder}: a bundle of '{self.recipe}'; {command} needs '{recipe}'"
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


def score(bundle: str | Path, input: str | Path, output: str | Path) -> pl.DataFrame:
    """The click probability of every row of a raw click log; of several labels the first's. A log
    with columns of its own needs no labels.

    Returns:
        ``row`` (from 0, in input order, of the rows that could be read) and ``probability``, as
        written to ``output``.
    """
    check_name(output)
    loaded = Bundle(bundle)
    loaded.require("ranking", "score")
    workflow = loaded.workflow()
    with tempfile.TemporaryDirectory() as scratch:
        source = loaded.source.without_labels()
        manifest = ingest("ranking", source, input, Path(scratch) / "raw", quiet=True)
        frames = list(_probabilities(loaded, workflow, Path(scratch) / "raw", manifest))
    scored = pl.DataFrame({"probability": np.concatenate(frames)}).with_row_index("row")
    write_table(scored, output)
    say(f"score: {', '.join([f'{len(scored):,} rows', *set_aside(manifest)])} → {output}")
    return scored


def _probabilities(
    loaded: Bundle, workflow: Workflow, raw: Path, manifest: dict[str, Any]
) -> Iterator[np.ndarray]:
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
                frame = workflow.transform(rows)
                names = loaded.model.input_names
                inputs = {name: torch.from_numpy(frame[name].to_numpy()) for name in names}
                with torch.inference_mode():
                    yield torch.sigmoid(loaded.model(inputs).double()).numpy()
                advance(last - first)


def recommend(
    bundle: str | Path, input: str | Path, output: str | Path, k: int = 20
) -> pl.DataFrame:
    """The ``k`` items most likely to come next in every session of a raw clickstream.

    The item viewed last is not recommended where repeats were dropped in training. A session of
    which no item is known gets the most frequent items of the training log.

    Returns:
        ``session_id``, ``rank`` (from 1), ``item_id`` (as in the raw log) and ``score``, as
        written to ``output``.
    """
    check_name(output)
    loaded = Bundle(bundle)
    loaded.require("sessions", "recommend")
    workflow = loaded.workflow()
    encoder = next(op for op in stat_operators(workflow) if "item_id" in _coded(op))
    items, first_code = encoder.vocabulary["item_id"], encoder.first_value("item_id")
    k = min(k, len(items))
    with tempfile.TemporaryDirectory() as scratch:
        source = needed_columns(loaded.source, workflow)
        manifest = ingest("sessions", source, input, Path(scratch) / "raw", quiet=True)
        events = _events(Path(scratch) / "raw", manifest, workflow)
    sessions = workflow.transform(events)
    found = []
    with progress("recommending", len(sessions), "sessions") as advance:
        for first in range(0, len(sessions), SESSIONS_AT_ONCE):
            chunk = sessions.iloc[first : first + SESSIONS_AT_ONCE]
            codes, scores = _next_items(loaded, chunk, k)
            found.append(
                pl.DataFrame(
                    {
                        "session_id": np.repeat(chunk["session_id"].to_numpy(), k),
                        "rank": np.tile(np.arange(1, k + 1), len(chunk)),
                        "item_id": pl.Series(items.take(codes.ravel() - first_code)),
                        "score": scores.ravel(),
                    }
                )
            )
            advance(len(chunk))
    # In a small catalogue the list may come down to the item just viewed.
    recommended = pl.concat(found).filter(pl.col("score") > -np.inf)
    write_table(recommended, output)
    told = [f"{len(sessions):,} sessions", f"{k} items each", *set_aside(manifest)]
    say(f"recommend: {', '.join(told)} → {output}")
    return recommended


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


def _events(raw: Path, manifest: dict[str, Any], workflow: Workflow) -> pd.DataFrame:
    """All events in session and time order, with the columns that the workflow reads."""
    columns = workflow.input_schema.column_names
    missing = [name for name in columns if name not in manifest["columns"]]
    if missing:
        raise UserError(f"the log lacks the column {', '.join(missing)}, which the model was given")
    shards = [raw / shard["file"] for shard in manifest["shards"]]
    events = pl.concat([pl.read_parquet(shard, columns=columns) for shard in shards])
    events = events.sort(sessionize.SESSION, sessionize.TIME, maintain_order=True)
    return sessionize.to_pandas(events.to_arrow())


def _next_items(loaded: Bundle, chunk: pd.DataFrame, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scores of the best ``k`` next items, each ``(sessions, k)``."""
    model, no_repeats = loaded.model, loaded.preprocess.sessions.drop_repeats
    import torch

    from training.sessions import ragged

    offsets = np.zeros(len(chunk) + 1, np.int64)
    np.cumsum([len(items) for items in chunk[model.item]], out=offsets[1:])
    columns = {
        name: torch.from_numpy(np.concatenate(chunk[name].to_list())) for name in model.columns
    }
    sessions = ragged.Sessions(columns, torch.from_numpy(offsets))
    sessions = ragged.drop_unknown(sessions, model.item)
    if no_repeats:
        sessions = ragged.drop_repeats(sessions, model.item)
    known = sessions.lengths > 0
    steps = sessions.offsets[1:][known] - 1
    # Frequency order is code order, so falling scores are the popular items' ranking.
    scores = -torch.arange(model.num_items, dtype=torch.float32).repeat(len(chunk), 1)
    with torch.inference_mode():
        if len(steps):
            windows = ragged.windows_through(sessions, steps, model.max_length)
            scores[known] = model.scores(ragged.pad(sessions, windows)).float()
            if no_repeats:  # the model was never asked for the item just viewed
                viewed = sessions.columns[model.item][steps].long()
                scores[known.nonzero().squeeze(1), viewed] = -torch.inf
        scores[:, : ragged.FIRST_ITEM] = -torch.inf
        best = scores.topk(k, dim=1)
    return best.indices.numpy(), best.values.numpy()
