"""Click probabilities for the rows of a raw click log."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from core.console import counted, progress, say
from core.errors import UserError
from core.parquet import read_frame
from pipeline import preprocess_ranking
from pipeline.ingest.clicks import KINDS, ClickSourceSettings
from pipeline.ingest.source import SourceSettings
from pipeline.ingest.trace import Trace
from pipeline.scoring.bundle import Bundle
from pipeline.scoring.tables import (
    Names,
    check_finite,
    check_name,
    claimed_table,
    free_name,
    name_bad_lines,
    plain_names,
    read_log,
    write_table,
)
from pipeline.stages.ingest import set_aside
from workflows.ops.values import list_parts
from workflows.ranking import raw_columns

ROWS_AT_ONCE = 100_000
MAX_BAD_FRACTION = SourceSettings().max_bad_fraction
ID_COLUMN = "--id-column"


def score(
    bundle: str | Path,
    input: str | Path,
    output: str | Path,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    id_columns: Sequence[str] = (),
) -> pl.DataFrame:
    """The click probability of every row of a raw click log; of several labels the first's. A log
    with columns of its own needs no labels, and of the others only those that the model reads.

    Args:
        max_bad_fraction: share of lines that may be quarantined before it fails.
        id_columns: columns of the log that are written with the probabilities, as they are.

    Returns:
        ``file`` where there are several, ``line`` (of that file from 1, as an editor counts; of
        Parquet the row), the ``id_columns`` and ``probability``, as written to ``output``. A line
        that could not be read has no row there.

    Raises:
        UserError: the bundle or the log is not there or of another kind, lacks an id column, or too
            many lines are bad.
    """
    check_name(output)
    loaded = Bundle(bundle)
    loaded.require("ranking", "score")
    source = needed_columns(loaded.source_with(max_bad_fraction), loaded)
    trace = _trace(source, [id_columns] if isinstance(id_columns, str) else list(id_columns))
    with claimed_table(output, bundle, input, _is_scored) as (file, raw):
        manifest = read_log("ranking", source, input, raw, trace)
        chances = np.concatenate(list(probabilities(loaded, raw, manifest)))
        scored = _places(raw, manifest, trace)
        check_finite(chances, lambda row: f"line {scored[row, trace.line]:,}", bundle)
        name = free_name("probability", scored.columns)
        scored = scored.with_columns(pl.Series(name, chances))
        write_table(scored, file)
        name_bad_lines(raw, manifest, "score")
    say(f"score: {', '.join([counted(len(scored), 'row'), *set_aside(manifest)])} → {output}")
    return scored


def _is_scored(columns: Names) -> bool:
    """Whether a table with these columns is an output of :func:`score`."""
    names = plain_names(columns)
    return names[-1:] == ["probability"] and bool({"line", "row"} & {*names[:2]})


def needed_columns(source: ClickSourceSettings, loaded: Bundle) -> ClickSourceSettings:
    """The source settings without labels and without the columns that the model does not read."""
    source = source.without_labels()
    if source.columns is None:
        return source
    used = raw_columns(loaded.preprocess.workflow)
    lists = ("categorical", "multi_valued", "continuous", "vectors")
    kept = {n: [c for c in getattr(source.columns, n) if c in used] for n in lists}
    columns = source.columns.model_copy(update=kept)
    return source.model_copy(update={"columns": columns})


def _trace(source: ClickSourceSettings, id_columns: list[str]) -> Trace:
    """Where the rows are in the log, and the columns to carry on."""
    if id_columns and source.columns is None:
        raise UserError(
            f"{ID_COLUMN}: a log in Criteo's format has no ids; join the scores by their line"
        )
    twice = sorted({name for name in id_columns if id_columns.count(name) > 1})
    if twice:
        raise UserError(f"{ID_COLUMN}: {twice[0]!r} is named twice")
    read: set[str] = set()
    if source.columns is not None:
        kinds = [kind for kind in KINDS if kind != "labels"]
        read = {name for kind in kinds for name in getattr(source.columns, kind)}
    carried: dict[str, str] = {}
    for name in id_columns:
        # A column that the model reads too is read a second time, as it is.
        carried[free_name(name, read | carried.keys())] = name
    line = free_name("line", read | carried.keys() | {*id_columns})
    return Trace(line, carried, option=ID_COLUMN)


def _places(raw: Path, manifest: dict[str, Any], trace: Trace) -> pl.DataFrame:
    """Where each row of the typed log is in the log, with the columns that are carried on."""
    columns = [trace.line, *trace.carried]
    several = len(manifest["inputs"]) > 1
    name = free_name("file", [trace.line, *trace.carried.values()])
    parts = []
    for shard in manifest["shards"]:
        part = read_frame(raw / shard["file"], columns)
        if several:
            part = part.select(pl.lit(shard["source"]).alias(name), *columns)
        parts.append(part)
    return pl.concat(parts).rename(dict(trace.carried))


def probabilities(loaded: Bundle, raw: Path, manifest: dict[str, Any]) -> Iterator[np.ndarray]:
    """The click probabilities of a typed log, some rows at a time."""
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
                inputs = model_inputs(frame, loaded.model.input_names)
                with torch.inference_mode():
                    yield torch.sigmoid(loaded.model(inputs).double()).numpy()
                advance(last - first)


def model_inputs(frame: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """Features of some rows as a model reads them, of lists the values and the offsets."""
    import torch

    inputs = {}
    for name in names:
        parts = list_parts(frame[name])
        if parts is None:
            inputs[name] = torch.from_numpy(frame[name].to_numpy())
            continue
        values, lengths = parts
        inputs[f"{name}__values"] = torch.from_numpy(values.to_numpy().copy())
        inputs[f"{name}__offsets"] = torch.from_numpy(np.append(0, np.cumsum(lengths)))
    return inputs
