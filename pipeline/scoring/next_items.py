"""Next items for the sessions of a raw clickstream."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from core.console import counted, progress, say
from core.errors import UserError
from core.merlin import ColumnSchema
from core.parquet import read_frame
from pipeline import sessionize
from pipeline.ingest.clickstream import ClickstreamSourceSettings, made_columns
from pipeline.ingest.lists import file_and_row
from pipeline.ingest.trace import Trace
from pipeline.ingest.user_sessions import own_ids
from pipeline.scoring.bundle import Bundle
from pipeline.scoring.clicks import MAX_BAD_FRACTION
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
from workflows.inputs import columns_behind

SESSIONS_AT_ONCE = 1024
MODEL, POPULAR = "model", "popular"
"""Where a list comes from."""
OURS = ["rank", "score", "source"]


def recommend(
    bundle: str | Path,
    input: str | Path,
    output: str | Path,
    k: int = 20,
    max_bad_fraction: float = MAX_BAD_FRACTION,
) -> pl.DataFrame:
    """The ``k`` items most likely to come next in every session of a raw clickstream.

    A session is cut, and items are left out and ordered, as evaluation does it: the model is shown
    the last ``sessions.preprocess.sessions.max_length`` − 1 events, the settings
    ``sessions.evaluate`` that the bundle was exported with say what is left out (the item viewed
    last, or all items among those events), and of items that score the same the one of the lower
    code comes first. A list is shorter than ``k`` where fewer items are left.

    A session of which no item is known gets the most frequent items of the training log; its list
    has ``popular`` under ``source``, and training events under ``score``.

    Where the sessions are cut from users' events at pauses, their ids say nothing outside this
    call: then each user gets one list, for the session of theirs in the input that starts last.

    Args:
        k: most items of a list.
        max_bad_fraction: share of lines that may be quarantined before it fails.

    Returns:
        The session, or the user where sessions are cut from users' events, and the item, both under
        the log's own names; ``rank`` (from 1), ``score`` (what the model orders by; docs/bundles.md
        says what it is) and ``source`` (``model`` or ``popular``), as written to ``output``.

    Raises:
        UserError: ``k`` is below 1, the bundle or the log is not there or of another kind, or too
            many lines are bad.
    """
    check_name(output)
    if k < 1:
        raise UserError(f"k: expected an integer of at least 1, got {k}")
    loaded = Bundle(bundle)
    loaded.require("sessions", "recommend")
    with claimed_table(output, bundle, input, _is_lists) as (file, raw):
        owners = _owners(loaded.source)
        used = columns_behind(loaded.workflow, loaded.model.columns)
        source = needed_columns(loaded.source_with(max_bad_fraction), used)
        # What only names a list is given back as the log has it.
        names = {"session_id", "user_id"} - (used - {"session_id"}) - made_columns(source)
        trace = Trace(as_is=names)
        manifest = read_log("sessions", source, input, raw, trace)
        lists = _owned_lists(loaded, read_events(loaded, raw, manifest, owners), owners, k)
        named = _named(lists, source, owners, manifest)
        write_table(named, file)
        name_bad_lines(raw, manifest, "recommend")
    _report(lists, owners, min(k, len(loaded.item_events)), manifest, output)
    return named


def _owners(source: ClickstreamSourceSettings) -> list[str]:
    """The columns that say whose a list is."""
    if source.session_gap_minutes is not None:
        return ["user_id"]
    return ["user_id", "session_id"] if source.session_per_user else ["session_id"]


def _report(
    lists: pl.DataFrame, owners: list[str], k: int, manifest: dict[str, Any], output: str | Path
) -> None:
    whose = owners[-1].removesuffix("_id")
    firsts = lists.unique(owners)
    popular = int((firsts["source"] == POPULAR).sum())
    parts = [counted(len(firsts), whose), f"at most {counted(k, 'item')} each"]
    if popular:
        parts.append(f"{popular:,} without a known item: the most frequent ones are listed")
    say(f"recommend: {', '.join([*parts, *set_aside(manifest)])} → {output}")


def _is_lists(columns: Names) -> bool:
    """Whether a table with these columns is an output of :func:`recommend`."""
    names = plain_names(columns)
    older = names[1:] == ["rank", "item_id", "score"] and names[0] in ("session_id", "user_id")
    return older or (len(names) in (5, 6) and [names[-4], *names[-2:]] == OURS)


def _named(
    lists: pl.DataFrame,
    source: ClickstreamSourceSettings,
    owners: list[str],
    manifest: dict[str, Any],
) -> pl.DataFrame:
    """The lists with the log's own names of session, user and item; a session that is a row without
    an id is named by its line, and its file where there are several."""
    log = {name: getattr(source.columns, name) or name for name in (*owners, "item_id")}
    ours = {name: free_name(name, log.values()) for name in OURS}
    if "session_id" not in made_columns(source):
        return lists.rename({**log, **ours})
    file, line = (free_name(name, log.values()) for name in ("file", "line"))
    files = [entry["file"] for entry in manifest["inputs"]]
    number, row = file_and_row(lists["session_id"])
    lists = lists.with_columns(row.alias("session_id")).rename({**log, **ours, "session_id": line})
    if len(files) == 1:
        return lists
    return lists.select(pl.Series(file, [files[n] for n in number], pl.String), pl.all())


def needed_columns(source: ClickstreamSourceSettings, used: set[str]) -> ClickstreamSourceSettings:
    """The source settings without the columns that are not ``used`` for the model's features.

    The user stays where sessions are cut by user, and all columns where duplicates are dropped,
    which all of them tell apart.
    """
    if source.drop_duplicates:
        return source
    used = used | {"session_id", "item_id", "timestamp", sessionize.EVENT_ORDER, *_owners(source)}
    if source.keep_event_types is not None:
        used.add("event_type")
    unused = {name: None for name in type(source.columns).model_fields if name not in used}
    update: dict[str, Any] = {"columns": source.columns.model_copy(update=unused)}
    for setting in ("extra_categorical", "extra_continuous", "vectors"):
        update[setting] = [name for name in getattr(source, setting) if name in used]
    return source.model_copy(update=update)


def read_events(
    loaded: Bundle, raw: Path, manifest: dict[str, Any], owners: list[str]
) -> pl.DataFrame:
    """All events in session and time order: the columns that the workflow reads, null where they
    were not read, and ``owners``."""
    inputs = loaded.workflow.input_schema.column_names
    wanted = dict.fromkeys([*inputs, sessionize.EVENT_ORDER, *owners])
    read = [name for name in wanted if name in manifest["columns"]]
    shards = [raw / shard["file"] for shard in manifest["shards"]]
    events = pl.concat([read_frame(shard, read) for shard in shards])
    order = [sessionize.SESSION, *sessionize.time_order(events)]
    types = {column.name: _type(column) for column in loaded.workflow.input_schema}
    absent = [pl.lit(None, types[name]).alias(name) for name in inputs if name not in read]
    return events.sort(order, maintain_order=True).with_columns(absent)


def _type(column: ColumnSchema) -> pl.DataType:
    """The type of a column of the log that was not read."""
    kind = "" if column.is_list else str(column.dtype.name)
    return pl.Float64() if "float" in kind else pl.Int64() if "int" in kind else pl.String()


def _owned_lists(loaded: Bundle, events: pl.DataFrame, owners: list[str], k: int) -> pl.DataFrame:
    """The lists of all sessions, or of each user's that starts last."""
    if owners == ["user_id"]:
        events = _latest_sessions(events)
    lists = lists_of(loaded, events, k)
    if "user_id" in owners:
        users = events.select("session_id", "user_id").unique()
        lists = users.join(lists, on="session_id", maintain_order="right")
    if len(owners) > 1:
        own = own_ids(lists["session_id"].to_arrow())
        lists = lists.with_columns(pl.Series("session_id", own))
    kept = [_as_trained(loaded, lists[name]) for name in owners]
    return lists.select(*kept, *(n for n in lists.columns if n not in ("session_id", "user_id")))


def _as_trained(loaded: Bundle, ids: pl.Series) -> pl.Series:
    """Ids as integers where the log that trained held such and nothing of these is lost by it."""
    if loaded.source.types.get(ids.name) == "integer" and ids.dtype == pl.String:
        numbers = ids.cast(pl.Int64, strict=False)
        if numbers.cast(pl.String).eq_missing(ids).all():
            return numbers
    return ids


def _latest_sessions(events: pl.DataFrame) -> pl.DataFrame:
    """The events of each user's session that starts last."""
    start = pl.col(sessionize.TIME).min().over(sessionize.SESSION)
    return events.filter(start == start.max().over("user_id"))


def lists_of(loaded: Bundle, events: pl.DataFrame, k: int) -> pl.DataFrame:
    """``session_id``, ``rank``, ``item_id``, ``score`` and ``source`` of every session of events in
    session and time order."""
    settings = loaded.preprocess.sessions
    if settings.drop_repeats:
        events = events.filter(~sessionize.repeats())
    # Of as many events as features hold the last one is what the model was asked for.
    events = events.filter(sessionize.from_end() < settings.max_length)
    sessions = loaded.transform(sessionize.to_pandas(events.to_arrow()))
    return pl.concat(_lists(loaded, sessions, min(k, len(loaded.item_events))))


def _lists(loaded: Bundle, sessions: pd.DataFrame, k: int) -> Iterator[pl.DataFrame]:
    """The lists of sessions of features, some at a time."""
    vocabulary = loaded.encoder.vocabulary["item_id"]
    popular = np.argsort(-loaded.item_events, kind="stable")[:k]
    with progress("recommending", len(sessions), "sessions") as advance:
        for first in range(0, len(sessions), SESSIONS_AT_ONCE):
            chunk = sessions.iloc[first : first + SESSIONS_AT_ONCE]
            asked, items, scores = _next_items(loaded, chunk, k)
            places = np.tile(popular, (len(chunk), 1))
            values = loaded.item_events[places].astype(np.float32)
            places[asked], values[asked] = items, scores
            source = np.full(len(chunk), POPULAR, object)
            source[asked] = MODEL
            row, place = np.nonzero(places >= 0)  # Where fewer than k items are left, it is -1.
            yield pl.DataFrame(
                {
                    "session_id": pl.Series(chunk["session_id"].to_numpy())[row],
                    "rank": place + 1,
                    "item_id": pl.Series(vocabulary.take(places[row, place])),
                    "score": values[row, place],
                    "source": pl.Series(source[row], dtype=pl.String),
                }
            )
            advance(len(chunk))


def _next_items(
    loaded: Bundle, chunk: pd.DataFrame, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which sessions have a known item, and of these the best ``k`` next items, as positions in the
    vocabulary, -1 where none is left, and their scores, each ``(sessions, k)``."""
    import torch

    from training.sessions import prefixes, ragged

    model, names = loaded.model, loaded.model.columns
    offsets = np.zeros(len(chunk) + 1, np.int64)
    np.cumsum([len(items) for items in chunk[model.item]], out=offsets[1:])
    columns = {name: torch.from_numpy(np.concatenate(chunk[name].to_list())) for name in names}
    sessions = ragged.Sessions(columns, torch.from_numpy(offsets))
    sessions = prefixes.shown_events(sessions, model.item, loaded.evaluation)
    asked = prefixes.whole_sessions(sessions)
    with torch.inference_mode():
        best = prefixes.recommended(model, asked, loaded.evaluation, k)
    ids = chunk["session_id"].to_numpy()[asked.rows.numpy()]
    finite = np.where(best.finite.numpy(), 0.0, np.nan)
    check_finite(finite, lambda number: f"session {ids[number]!r}", loaded.folder)
    items = best.items.numpy()
    first = loaded.encoder.first_value("item_id") - ragged.FIRST_ITEM
    return asked.rows.numpy(), np.where(items < 0, -1, items - first), best.scores.numpy()
