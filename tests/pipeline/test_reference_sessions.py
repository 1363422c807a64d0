"""Session features with columns of every kind, against the definition in plain Python on one core.

Whatever the split, the shards and their order, the parts and the workers.
"""

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest

from core.artifacts import read_json
from core.cluster import ClusterSettings
from pipeline.preprocess_sessions import SessionsPreprocessSettings, preprocess_sessions
from pipeline.sessionize import SessionizeSettings
from pipeline.splits import SplitSettings
from tests.pipeline.test_preprocess_sessions import write_raw
from workflows.sessions import SessionsWorkflowSettings

DAY = 86_400_000
START = 18_600 * DAY
WIDTH = 3
SETTINGS = SessionsPreprocessSettings(
    sessions=SessionizeSettings(min_item_support=3, max_length=6),
    workflow=SessionsWorkflowSettings(
        categorical=("category", "colour"),
        continuous=("price", "discount", "stock"),
        vectors={"title": WIDTH},
        item_freq_threshold=4,
        columns={
            "colour": {"freq_threshold": 6, "num_buckets": 1},
            "discount": {"scale": "minmax", "missing": 0.25},
            "stock": {"missing": "median", "scale": "none", "clip_max": 30, "bucketize": (5, 20)},
        },
    ),
    events_per_part=120,
)


def make_events(sessions=160, days=5, seed=0):
    """Sessions over several days, each event at a time of its own within its session."""
    rng = np.random.default_rng(seed)
    rows = []
    for session in range(sessions):
        at = START + int(days * DAY * (session + 0.5) / sessions)
        for _ in range(rng.integers(1, 10)):
            at += int(rng.integers(1, 90)) * 1000
            item = int(rng.zipf(1.5) % 30)
            rows.append(
                {
                    "session_id": f"s{session}",
                    "item_id": item * 1_000_003,
                    "timestamp": at,
                    "category": None if item % 7 == 0 else item % 5,
                    "colour": None if rng.random() < 0.1 else ("röt", "blau", "grün")[item % 3],
                    "price": None if item % 6 == 0 else item + 0.5,
                    "discount": None if rng.random() < 0.2 else float(rng.integers(0, 9)) / 8,
                    "stock": None if rng.random() < 0.2 else float(rng.integers(0, 50)),
                    "title": None if item % 11 == 0 else [item / 8.0, -1.0, item % 2 + 0.5],
                }
            )
    types = {"timestamp": pl.Datetime("ms", "UTC"), "title": pl.List(pl.Float32)}
    types |= dict.fromkeys(("price", "discount", "stock"), pl.Float32)
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return frame.with_columns(pl.col(n).cast(t) for n, t in types.items())


def dropped_repeats(events):
    return [e for n, e in enumerate(events) if n == 0 or events[n - 1]["item_id"] != e["item_id"]]


def split_by_start(sessions, split):
    """``{split: {session: events}}`` where the start decides."""
    starts = sorted(events[0]["timestamp"] for events in sessions.values())
    first, last = None, None
    if split.kind == "fraction":
        test = starts[round(len(starts) * (1 - split.test))]
    elif split.kind == "days":
        test = starts[-1] // DAY * DAY
    else:
        test = (starts[0] // DAY + split.test_day) * DAY
        first = test - split.train_days * DAY
        last = test + DAY
    before = [s for s in starts if (first is None or s >= first) and s < test]
    valid = before[round(len(before) * (1 - split.valid))]
    found = {"train": {}, "valid": {}, "test": {}}
    for session, events in sessions.items():
        start = events[0]["timestamp"]
        if (first is not None and start < first) or (last is not None and start >= last):
            continue
        name = "train" if start < valid else "valid" if start < test else "test"
        if split.kind == "window" and name != "test":
            until = valid if name == "train" else test
            events = [event for event in events if event["timestamp"] < until]
        found[name][session] = events
    return found


def split_by_ends(sessions):
    found = {"train": {}, "valid": {}, "test": {}}
    for session, events in sessions.items():
        events = dropped_repeats(events)
        if len(events) < 3:
            found["train"][session] = events
            continue
        ends = {"train": -2, "valid": -1, "test": None}
        for name, end in ends.items():
            found[name][session] = events[:end]
    return found


def sessions_of(events, settings):
    """The events of each split and session that become features."""
    sessions = {}
    for row in events.with_columns(pl.col("timestamp").dt.timestamp("ms")).to_dicts():
        sessions.setdefault(row["session_id"], []).append(row)
    for rows in sessions.values():
        rows.sort(key=lambda row: row["timestamp"])
    by_ends = settings.split.kind == "leave_one_out"
    splits = split_by_ends(sessions) if by_ends else split_by_start(sessions, settings.split)
    support = Counter(e["item_id"] for rows in splits["train"].values() for e in rows)
    kept = {}
    for name, group in splits.items():
        kept[name] = {}
        for session, rows in group.items():
            if name == "train":
                least = settings.sessions.min_item_support
                rows = [row for row in rows if support[row["item_id"]] >= least]
            rows = dropped_repeats(rows)
            if len(rows) >= settings.sessions.min_length:
                kept[name][session] = rows[-settings.sessions.max_length :]
    return kept


def derived(rows):
    """The rows of a session with what comes of their times."""
    out = []
    for n, row in enumerate(rows):
        angle = 2 * math.pi * (row["timestamp"] % DAY) / DAY
        gap = 0 if n == 0 else (row["timestamp"] - rows[n - 1]["timestamp"]) / 1000
        made = {"hour_sin": math.sin(angle), "hour_cos": math.cos(angle), "gap": math.log1p(gap)}
        if row["price"] is not None:
            made["price"] = math.log1p(max(0, row["price"]))
        out.append({**row, **made})
    return out


def coded(training, name, least):
    counts = Counter(row[name] for row in training if row[name] is not None)
    ranked = sorted((v for v in counts if counts[v] >= least), key=lambda v: (-counts[v], v))
    codes = {value: 3 + rank for rank, value in enumerate(ranked)}
    return lambda value: 1 if value is None else codes.get(value, 2)


def reference(events, settings):
    """``{split: {session: {feature: list}}}`` by the definitions in the manual."""
    splits = {
        name: {session: derived(rows) for session, rows in group.items()}
        for name, group in sessions_of(events, settings).items()
    }
    training = [row for rows in splits["train"].values() for row in rows]
    known = {
        name: [row[name] for row in training if row[name] is not None]
        for name in ("price", "discount", "stock", "hour_sin", "hour_cos", "gap")
    }

    def standard(name):
        mean, std = np.mean(known[name]), np.std(known[name], ddof=1)
        return lambda v: 0.0 if v is None else (v - mean) / std

    filled = [0.25 if row["discount"] is None else row["discount"] for row in training]
    low, high = min(filled), max(filled)
    median = np.median(known["stock"])
    functions = {
        "item_id": coded(training, "item_id", 4),
        "category": coded(training, "category", 1),
        "colour": coded(training, "colour", 6),
        "price": standard("price"),
        "discount": lambda v: ((0.25 if v is None else v) - low) / (high - low),
        "stock": lambda v: min(30, median if v is None else v),
        **{name: standard(name) for name in ("hour_sin", "hour_cos", "gap")},
    }
    found = {}
    for split, group in splits.items():
        found[split] = {}
        for session, rows in group.items():
            lists = {
                name: [function(row[name]) for row in rows] for name, function in functions.items()
            }
            lists["stock_bucket"] = [
                1 if row["stock"] is None else 3 + sum(row["stock"] >= edge for edge in (5, 20))
                for row in rows
            ]
            for n in range(WIDTH):
                lists[f"title_{n}"] = [0 if r["title"] is None else r["title"][n] for r in rows]
            found[split][session] = lists
    return found


def assert_as_defined(folder, expected):
    for split, sessions in expected.items():
        found = pl.concat(pl.read_parquet(p) for p in sorted((folder / split).glob("*.parquet")))
        assert sorted(found["session_id"]) == sorted(sessions)
        for row in found.to_dicts():
            wanted = sessions[row["session_id"]]
            assert set(row) == {"session_id", "start", *wanted}
            for name, values in wanted.items():
                assert len(row[name]) == len(values)
                message = f"{split} {row['session_id']} {name}"
                np.testing.assert_allclose(row[name], values, atol=2e-5, err_msg=message)


SPLITS = [
    SplitSettings(test=0.25, valid=0.2),
    SplitSettings(kind="days", valid=0.2),
    SplitSettings(kind="window", test_day=3, train_days=2, valid=0.2),
    SplitSettings(kind="leave_one_out"),
]


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.kind)
def test_features_are_as_defined(tmp_path, split):
    events = make_events()
    settings = SETTINGS.model_copy(update={"split": split})
    expected = reference(events, settings)
    assert all(expected.values())
    raw = write_raw(tmp_path / "raw", events, 5)
    preprocess_sessions(raw, tmp_path / "out", settings, ClusterSettings(workers=2))
    assert_as_defined(tmp_path / "out", expected)
    manifest = read_json(tmp_path / "out" / "manifest.json")
    for name, sessions in expected.items():
        codes = [code for lists in sessions.values() for code in lists["item_id"]]
        described = manifest["splits"][name]
        assert (described["sessions"], described["values"]) == (len(sessions), len(codes))
        assert described["oov_rate"]["item_id"] == pytest.approx(codes.count(2) / len(codes), 1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_neither_order_nor_parts_nor_workers_matter(tmp_path, seed):
    events = make_events(seed=seed)
    rng = np.random.default_rng(seed)
    split = SPLITS[seed % len(SPLITS)]
    settings = SETTINGS.model_copy(
        update={"split": split, "events_per_part": int(rng.integers(30, 2000))}
    )
    shuffled = events.sample(fraction=1, shuffle=True, seed=seed)
    raw = write_raw(tmp_path / "raw", shuffled, int(rng.integers(1, 9)))
    cluster = ClusterSettings(workers=int(rng.integers(1, 4)))
    preprocess_sessions(raw, tmp_path / "out", settings, cluster)
    assert_as_defined(tmp_path / "out", reference(events, settings))
