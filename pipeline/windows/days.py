"""The days of a raw clickstream, and the features of one window."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from core import kinds
from core.artifacts import parquet_files, read_json, write_json, write_parquet
from core.console import counted, say
from core.errors import UserError
from core.outputs import claimed
from core.parquet import read_footer, read_frame, read_table, reading
from core.settings import merge
from core.sums import files_below, sums_of, write_manifest
from pipeline import held_out
from pipeline.feature_folder import VIEW_OF, open_features
from pipeline.params import Params
from pipeline.preprocess import MANIFEST, PLAN, SCHEMA, STATE, plan_of, raw_manifest
from pipeline.sessionize import SESSION, TIME
from pipeline.splits import DAY, EmptySplit
from pipeline.stages.preprocess import preprocess
from pipeline.stages.train import features_identity, rows_of

DONE = "view.json"


def sessions_by_day(raw: Path) -> dict[int, int]:
    """How many sessions start on each day (UTC) that has any; the log's first day is 0."""
    shards = [raw / shard["file"] for shard in raw_manifest(raw)["shards"]]
    events = pl.scan_parquet(shards, glob=False)
    events = events.select(SESSION, day=pl.col(TIME).dt.timestamp("ms") // DAY)
    starts = events.group_by(SESSION).agg(pl.col("day").min())
    try:
        with reading(raw):
            counted = starts.group_by("day").len().sort("day").collect(engine="streaming")
    except UserError:
        for shard in shards:  # polars does not say which one it cannot read
            read_frame(shard, [SESSION, TIME])
        raise
    first = counted["day"].min()
    return {day - first: count for day, count in counted.iter_rows()}


def test_days(counts: dict[int, int], first: int, train_days: int | None) -> list[int]:
    """The days from ``first`` on that can test: they have sessions, and so has a day before.

    Args:
        counts: sessions of each day that has any.
        train_days: how many days before may train; None: all.

    Raises:
        UserError: there is none.
    """
    can = [
        day
        for day in sorted(counts)
        if any((0 if train_days is None else day - train_days) <= other < day for other in counts)
    ]
    test_days = [day for day in can if day >= first]
    for day in sorted(counts):
        if day >= first and day not in can:
            say(
                f"windows: day {day} passed over: no sessions on the "
                f"{counted(train_days or 0, 'day')} before it (split.train_days)"
            )
    if not test_days:
        within = f" (split.train_days {train_days})" if train_days else ""
        remedy = f"set it to {can[-1]} or less" if can else "add a day to the log"
        raise UserError(
            f"sessions.windows.first_test_day {first}: the log has sessions on "
            f"{named_days(counts)} only, and a window needs a test day and at least one earlier "
            f"day{within} to train on; {remedy}"
        )
    return test_days


def named_days(days: Iterable[int]) -> str:
    """``day 3``, ``days 1, 3``, in order; ``no day``."""
    ordered = sorted(days)
    numbers = ", ".join(map(str, ordered))
    return f"day{'s' * (len(ordered) > 1)} {numbers}" if ordered else "no day"


def window_params(params: Params, day: int) -> Params:
    """The settings with the split of the window that tests ``day``."""
    split = {"sessions": {"preprocess": {"split": {"kind": "window", "test_day": day}}}}
    return Params(merge(params.tree, split), params.origin)


def window_features(raw: Path, features: Path, params: Params) -> None:
    """Makes the window's features, unless they are there already.

    Raises:
        EmptySplit: no session would train, or none validate; nothing is kept then.
    """
    settings = params.section("sessions.preprocess")
    whole = (features / MANIFEST).is_file() and (features / PLAN).is_file()
    if whole and read_json(features / PLAN) == plan_of(settings, raw_manifest(raw)):
        say(f"windows: {features} is there already")
        return
    try:
        preprocess("sessions", raw, features, params)
    except EmptySplit:
        with claimed(features, kinds.FEATURES) as claim:
            claim.discard()
        raise


def newest(features: Path, before: Path, view: Path) -> Path | None:
    """A view of ``features`` that trains on the sessions alone that did not train in the window
    ``before``, by their ids.

    Returns:
        ``view``; None where there is no such session. It has the identity of ``features``: codes
        and split are theirs.
    """
    identity = {"before": features_identity(before), "plan": read_json(features / PLAN)}
    if not (view / DONE).is_file() or read_json(view / DONE) != identity:
        with claimed(view, kinds.VIEW, [features, before]) as claim, claim.replaced() as folder:
            _fill_view(features, before, folder)
            write_json(folder / DONE, identity)
    parts = parquet_files(view / "train") if (view / "train").is_dir() else []
    new = sum(read_footer(part).num_rows for part in parts)
    total = counted(rows_of(features, "train"), "session")
    say(f"windows: trained further on {new:,} of {total} that train, those that are new")
    return view if new else None


def _fill_view(features: Path, before: Path, view: Path) -> None:
    for folder in ("valid", STATE):
        for name in files_below(features / folder):
            target = view / folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            held_out.link(features / folder / name, target)
    earlier = [read_table(part, [SESSION])[SESSION] for part in parquet_files(before / "train")]
    trained = pa.concat_arrays([chunk for column in earlier for chunk in column.chunks])
    for part in parquet_files(features / "train"):
        table = read_table(part)
        known = pc.is_in(table[SESSION], trained.cast(table[SESSION].type))
        table = table.filter(pc.invert(known))
        if table.num_rows:
            write_parquet(view / "train" / part.name, table)
    for name in (PLAN, SCHEMA):
        shutil.copyfile(features / name, view / name)
    manifest = open_features(features).record
    sums = sums_of(view, files_below(view))
    write_manifest(view / MANIFEST, {**manifest, VIEW_OF: features_identity(features)}, sums)
