"""Session features that grow: as if all days were given at once, no event lost or counted twice."""

import itertools
from collections import Counter

import polars as pl
import pytest

from core.artifacts import read_json, write_json
from core.cluster import ClusterSettings
from pipeline.grow import grow
from pipeline.preprocess_sessions import SessionsPreprocessSettings, preprocess_sessions
from pipeline.sessionize import SessionizeSettings
from pipeline.splits import SplitSettings
from tests.pipeline import grown as compare
from tests.pipeline.test_preprocess_sessions import write_raw
from tests.pipeline.test_reference_sessions import DAY, SETTINGS, START, make_events
from workflows.sessions import SessionsWorkflowSettings

ONE = ClusterSettings(workers=1)
SPLITS = [
    SplitSettings(test=0.25, valid=0.2),
    SplitSettings(kind="days", valid=0.2),
    SplitSettings(kind="last_day_halves"),
    SplitSettings(kind="leave_one_out"),
]


def settings_for(split, **sessions):
    update = {"split": split, "sessions": SessionizeSettings(max_length=6, **sessions)}
    update["events_per_part"] = 300
    return SETTINGS.model_copy(update=update)


def days_of(events, first, last):
    day = (pl.col("timestamp").dt.timestamp("ms") - START) // DAY
    return events.filter((day >= first) & (day < last))


def by_session(features, split):
    return compare.decoded(features, split).sort("session_id", "start")


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.kind)
def test_the_same_days_at_once_have_the_same_statistics_and_splits(tmp_path, split):
    events, settings = make_events(), settings_for(split)
    cuts = [0, 3, 4, 5]
    for n, (first, last) in enumerate(itertools.pairwise(cuts)):
        write_raw(tmp_path / f"raw{n}", days_of(events, first, last), 2)
    write_raw(tmp_path / "raw", events, 3)
    features, at_once = tmp_path / "features", tmp_path / "at_once"
    preprocess_sessions(tmp_path / "raw", at_once, settings, ONE)
    preprocess_sessions(tmp_path / "raw0", features, settings, ClusterSettings(workers=2))
    old = compare.vocabularies(features)
    kept = {p.name: p.read_bytes() for p in (features / "train").iterdir()}
    for n in (1, 2):
        manifest = grow("sessions", tmp_path / f"raw{n}", features, settings, ONE)
    compare.assert_same_statistics(features, at_once)
    for name, values in compare.vocabularies(features).items():
        assert values[: len(old[name])] == old[name]
    for path, content in kept.items():
        assert (features / "train" / path).read_bytes() == content
    whole = read_json(at_once / "manifest.json")
    assert manifest["bounds"] == whole["bounds"]
    # Parts that stay have the numbers and codes of their own fit; the others are as at once.
    names = ("train",) if split.kind != "leave_one_out" else ("train", "valid", "test")
    for name in ("train", "valid", "test"):
        found, expected = by_session(features, name), by_session(at_once, name)
        assert found["session_id"].to_list() == expected["session_id"].to_list()
        assert manifest["splits"][name]["sessions"] == len(found)
        if name not in names:
            compare.assert_same_rows(found, expected)
    assert manifest["fits"][-1]["parts"]["train"][1] == len(list((features / "train").iterdir()))
    assert not (features / "events").exists()


def event(session, minute, item):
    return {"session_id": session, "item_id": item, "timestamp": START + minute * 60_000}


PLAIN = SessionsPreprocessSettings(
    split=SplitSettings(test=0.3, valid=0.3),
    workflow=SessionsWorkflowSettings(categorical=(), continuous=()),
)


def log_of(folder, events):
    frame = pl.DataFrame(events).with_columns(pl.col("timestamp").cast(pl.Datetime("ms", "UTC")))
    return write_raw(folder, frame.sort("timestamp", maintain_order=True), 2)


def items_of(features, split):
    frame = compare.decoded(features, split)
    return {
        (session, start): items.to_list()
        for session, start, items in zip(
            frame["session_id"], frame["start"].dt.timestamp("ms"), frame["item_id"], strict=True
        )
    }


def test_a_session_that_goes_on_in_the_new_days(tmp_path):
    """Ten old sessions of three events, ten minutes apart: 0 to 4 train, 5 and 6 validate."""
    old = [event(s, 10 * s + n, n + s) for s in range(10) for n in range(3)]
    later = [event(1, 200, 5), event(1, 201, 6), event(8, 202, 4), event(2, 203, 7)]
    new = [event(s, 10 * s + n, n + s) for s in range(30, 36) for n in range(3)]
    raw, features = log_of(tmp_path / "old", old), tmp_path / "features"
    preprocess_sessions(raw, features, PLAIN, ONE)
    before = items_of(features, "train")
    assert {session for session, _ in before} == {0, 1, 2, 3, 4}
    grow("sessions", log_of(tmp_path / "new", later + new), features, PLAIN, ONE)
    found = {split: items_of(features, split) for split in ("train", "valid", "test")}
    everything = {key: items for group in found.values() for key, items in group.items()}
    # Held out before: one session with all its events.
    assert everything[8, START + 80 * 60_000] == ["8", "9", "10", "4"]
    # Trained before: that row stays, and what comes later is a session of its own ...
    assert found["train"][1, START + 10 * 60_000] == ["1", "2", "3"] == before[1, START + 600_000]
    assert everything[1, START + 200 * 60_000] == ["5", "6"]
    # ... which, like any other, is left out below min_length.
    assert [key for key in everything if key[0] == 2] == [(2, START + 20 * 60_000)]
    assert sum(map(len, everything.values())) == len(old + later + new) - 1
    trained = [item for items in found["train"].values() for item in items]
    tables, _ = compare.statistics(features)
    [counts] = [rows for name, rows in tables.items() if "counts.item_id" in name]
    assert {str(item): count for item, count in counts} == Counter(trained)


def test_no_session_that_trains_starts_after_one_that_is_held_out(tmp_path):
    events, settings = make_events(seed=4), settings_for(SPLITS[0])
    features = tmp_path / "features"
    preprocess_sessions(write_raw(tmp_path / "a", days_of(events, 0, 3)), features, settings, ONE)
    # The second log begins a day before the first one ends: late events.
    more = make_events(seed=5).with_columns(pl.col("session_id") + "x")
    grow("sessions", write_raw(tmp_path / "b", days_of(more, 2, 5)), features, settings, ONE)
    starts = [compare.read(features, name)["start"] for name in ("train", "valid", "test")]
    assert starts[0].max() < starts[1].min() <= starts[1].max() < starts[2].min()


def test_an_item_that_reaches_the_support_gets_a_code_at_the_end(tmp_path):
    def rows(first, items):
        return [event(s, 10 * s + n, i) for s, pair in enumerate(items, first)
                for n, i in enumerate(pair)]  # fmt: skip

    update = {"sessions": SessionizeSettings(min_item_support=3)}
    update["split"] = SplitSettings(test=0.1, valid=0.1)
    settings = PLAIN.model_copy(update=update)
    usual = [(1, 2)] * 12
    features = tmp_path / "features"
    old = rows(0, [(1, 9, 2), (2, 1, 9), *usual])  # item 9: two events, not enough
    preprocess_sessions(log_of(tmp_path / "old", old), features, settings, ONE)
    assert compare.vocabularies(features)["item_id"] == [1, 2]
    new = rows(100, [(2, 9, 1), (8, 1, 2), *usual])
    grow("sessions", log_of(tmp_path / "new", new), features, settings, ONE)
    # One more event of item 9 makes three; the one of item 8 is not enough.
    assert compare.vocabularies(features)["item_id"] == [1, 2, 9]
    support = pl.read_parquet(features / "held_out" / "support.parquet")
    assert dict(support.rows())[9] == 3 and dict(support.rows())[8] == 1


def test_sessions_cut_by_idle_time_of_another_log_are_others(tmp_path):
    """Ingest numbers such sessions from 0 in each raw log."""

    def numbered(folder, first):
        log_of(folder, [event(s * 3, 10 * (s + first) + n, n) for s in range(10) for n in range(3)])
        manifest = read_json(folder / "manifest.json")
        source = {"session_gap_minutes": 30}
        write_json(folder / "manifest.json", {**manifest, "source": source, "rows_read": 30})
        return folder

    features = tmp_path / "features"
    preprocess_sessions(numbered(tmp_path / "old", 0), features, PLAIN, ONE)
    grow("sessions", numbered(tmp_path / "new", 20), features, PLAIN, ONE)
    ids = [key[0] for name in ("train", "valid", "test") for key in items_of(features, name)]
    assert sorted(ids) == [*range(0, 30, 3), *range(30, 60, 3)]
