"""Features of ratings against the definition in plain Python, and features that grow."""

import math
from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import polars as pl
import pytest

from core.artifacts import read_json
from core.cluster import ClusterSettings
from pipeline.grow import grow
from pipeline.preprocess_interactions import (
    InteractionsPreprocessSettings,
    preprocess_interactions,
)
from pipeline.splits import SplitSettings
from tests.pipeline import grown as compare
from tests.pipeline.test_preprocess_sessions import write_raw
from workflows.interactions import InteractionsWorkflowSettings
from workflows.ops.stable_hash import combine, hash_column

DAY = 86_400_000
START = 17_000 * DAY
FOLDS, SMOOTHING = 4, 3.0
SETTINGS = InteractionsPreprocessSettings(
    workflow=InteractionsWorkflowSettings(
        freq_threshold=2,
        positive_from=3.5,
        target_encoding=("user_id", "item_id"),
        target_folds=FOLDS,
        target_smoothing=SMOOTHING,
        counts=("item_id",),
        crosses=({"columns": ("user_id", "item_id"), "buckets": 50},),
    ),
    rows_per_part=60,
)
ONE = ClusterSettings(workers=1)


def make_ratings(rows=300, days=6, seed=0):
    """Ratings of few and many items by users of one to dozens, each at a time of its own."""
    rng = np.random.default_rng(seed)
    times = START + np.sort(rng.choice(days * 86_000, rows, replace=False)) * 1000
    return pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in rng.zipf(1.4, rows) % 40],
            "item_id": rng.zipf(1.4, rows) % 50 + 7,
            "rating": (rng.integers(1, 11, rows) / 2).astype(np.float32),
            "timestamp": pl.Series(times).cast(pl.Datetime("ms", "UTC")),
        }
    )


def split_of(rows, split):
    """The split of each row, None where it is not used."""
    times = sorted(row["timestamp"] for row in rows)
    if split.kind == "leave_one_out":
        by_user = defaultdict(list)
        for row in sorted(rows, key=lambda row: row["timestamp"]):
            by_user[row["user_id"]].append(row["timestamp"])
        held = {}
        for user, mine in by_user.items():
            if len(mine) >= 3:
                held |= {(user, mine[-1]): "test", (user, mine[-2]): "valid"}
        return [held.get((row["user_id"], row["timestamp"]), "train") for row in rows]
    first, last = 0, math.inf
    if split.kind == "last_day_halves":
        day = [t for t in times if t >= times[-1] // DAY * DAY]
        test = day[len(day) // 2]
    elif split.kind == "fraction":
        test = times[round(len(times) * (1 - split.test))]
    elif split.kind == "days":
        test = times[-1] // DAY * DAY
    elif split.kind == "window":
        test = (times[0] // DAY + split.test_day) * DAY
        first, last = test - split.train_days * DAY, test + DAY
    before = [t for t in times if first <= t < test]
    valid = before[round(len(before) * (1 - split.valid))]
    if split.kind == "last_day_halves":
        valid = times[-1] // DAY * DAY
    found = []
    for row in rows:
        t = row["timestamp"]
        name = "train" if t < valid else "valid" if t < test else "test"
        found.append(name if first <= t < last else None)
    return found


def codes_of(training, name):
    counts = Counter(row[name] for row in training)
    kept = sorted((v for v in counts if counts[v] >= 2), key=lambda v: (-counts[v], v))
    return counts, {value: 3 + rank for rank, value in enumerate(kept)}


def folds_of(rows):
    """The fold of each row: a hash of its columns but the rating."""
    frame = pd.DataFrame(rows).assign(timestamp=lambda f: f["timestamp"] / 1000)
    hashes = [hash_column(frame[name])[0] for name in ("item_id", "timestamp", "user_id")]
    return (combine(hashes) % np.uint64(FOLDS)).tolist()


def encoded(training, name, value, fold):
    """The smoothed mean rating of the training rows outside ``fold`` with that value."""
    others = [row for row in training if row["fold"] != fold]
    mean = sum(row["rating"] for row in others) / len(others)
    same = [row["rating"] for row in others if row[name] == value]
    return (sum(same) + SMOOTHING * mean) / (len(same) + SMOOTHING)


def reference(ratings, split):
    """``{split: {(user, time in ms): features}}`` by the definitions in the manual."""
    rows = ratings.with_columns(pl.col("timestamp").dt.timestamp("ms")).to_dicts()
    for row, name, fold in zip(rows, split_of(rows, split), folds_of(rows), strict=True):
        row |= {"split": name, "fold": fold}
    training = [row for row in rows if row["split"] == "train"]
    seconds = [row["timestamp"] / 1000 for row in training]
    mean, std = np.mean(seconds), np.std(seconds, ddof=1)
    coded = {name: codes_of(training, name) for name in ("user_id", "item_id")}
    found = {"train": {}, "valid": {}, "test": {}}
    for row in rows:
        if row["split"] is None:
            continue
        fold = row["fold"] if row["split"] == "train" else None
        features = {name: coded[name][1].get(row[name], 2) for name in coded}
        features |= {
            f"TE_{name}_rating": encoded(training, name, row[name], fold) for name in coded
        }
        features["rating"] = float(row["rating"] >= 3.5)
        features["timestamp"] = (row["timestamp"] / 1000 - mean) / std
        features["item_id_count"] = math.log1p(coded["item_id"][0][row["item_id"]])
        found[row["split"]][row["user_id"], row["timestamp"]] = features
    return found


def assert_as_defined(folder, expected):
    for split, rows in expected.items():
        found = compare.read(folder, split).drop("user_id_X_item_id")
        assert len(found) == len(rows)
        wanted = [rows[key] for key in sorted(rows, key=lambda key: key[1])]
        table = pl.DataFrame(wanted).select(found.columns)
        for name in table.columns:
            np.testing.assert_allclose(
                found.sort("timestamp")[name], table[name], atol=2e-5, err_msg=f"{split} {name}"
            )


SPLITS = [
    SplitSettings(test=0.25, valid=0.2),
    SplitSettings(kind="days", valid=0.2),
    SplitSettings(kind="last_day_halves"),
    SplitSettings(kind="leave_one_out"),
    SplitSettings(kind="window", test_day=4, train_days=3, valid=0.2),
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.kind)
def test_features_are_as_defined_in_any_order_parts_and_workers(tmp_path, split, seed):
    ratings = make_ratings(seed=seed)
    expected = reference(ratings, split)
    assert all(expected.values())
    rng = np.random.default_rng(seed)
    update = {"split": split, "rows_per_part": int(rng.integers(20, 200))}
    shuffled = ratings.sample(fraction=1, shuffle=bool(seed), seed=seed)
    raw = write_raw(tmp_path / "raw", shuffled, int(rng.integers(1, 8)))
    cluster = ClusterSettings(workers=1 + seed)
    settings = SETTINGS.model_copy(update=update)
    preprocess_interactions(raw, tmp_path / "out", settings, cluster)
    assert_as_defined(tmp_path / "out", expected)
    assert not (tmp_path / "out" / "events").exists()


def days_of(ratings, first, last):
    day = (pl.col("timestamp").dt.timestamp("ms") - START) // DAY
    return ratings.filter((day >= first) & (day < last))


@pytest.mark.parametrize("split", SPLITS[:3], ids=lambda split: split.kind)
def test_the_same_days_at_once_have_the_same_statistics_and_splits(tmp_path, split):
    ratings = make_ratings(rows=400)
    settings = SETTINGS.model_copy(update={"split": split})
    features, at_once = tmp_path / "features", tmp_path / "at_once"
    preprocess_interactions(write_raw(tmp_path / "raw", ratings, 3), at_once, settings, ONE)
    first = write_raw(tmp_path / "raw0", days_of(ratings, 0, 3))
    preprocess_interactions(first, features, settings, ONE)
    old = compare.vocabularies(features)
    kept = {p.name: p.read_bytes() for p in (features / "train").iterdir()}
    for n, days in ((1, (3, 4)), (2, (4, 6))):
        raw = write_raw(tmp_path / f"raw{n}", days_of(ratings, *days), 2)
        manifest = grow("interactions", raw, features, settings, ClusterSettings(workers=2))
    for name, values in compare.vocabularies(features).items():
        assert values[: len(old[name])] == old[name]
    for path, content in kept.items():
        assert (features / "train" / path).read_bytes() == content
    whole = read_json(at_once / "manifest.json")
    assert manifest["bounds"] == whole["bounds"]
    compare.assert_same_statistics(features, at_once)
    for name in ("train", "valid", "test"):
        assert manifest["splits"][name]["rows"] == whole["splits"][name]["rows"]
    for name in ("valid", "test"):
        found, expected = (
            compare.decoded(folder, name).sort("timestamp") for folder in (features, at_once)
        )
        compare.assert_same_rows(found, expected)


def test_the_last_ratings_of_users_who_come_back(tmp_path):
    """A rating that trains stays there; so a user with one or two before has none to validate."""
    ratings = make_ratings(rows=400)
    settings = SETTINGS.model_copy(update={"split": SplitSettings(kind="leave_one_out")})
    features = tmp_path / "features"
    rows = ratings.with_columns(pl.col("timestamp").dt.timestamp("ms")).to_dicts()
    steps = [(0, 1), (1, 2), (2, 4), (4, 6)]
    trained, back = set(), 0
    for n, days in enumerate(steps):
        raw = write_raw(tmp_path / f"raw{n}", days_of(ratings, *days), 2)
        if n == 0:
            preprocess_interactions(raw, features, settings, ONE)
        else:
            grow("interactions", raw, features, settings, ONE)
        so_far = [row for row in rows if row["timestamp"] < START + days[1] * DAY]
        held = {"valid": [], "test": []}
        for row, name in zip(so_far, split_of(so_far, settings.split), strict=True):
            key = row["user_id"], row["timestamp"]
            if name == "train" or key in trained:
                back += name != "train"
                trained.add(key)
            else:
                held[name].append(row)
        fitted = [row for row in so_far if (row["user_id"], row["timestamp"]) in trained]
        tables, _ = compare.statistics(features)
        for column in ("user_id", "item_id"):
            [counts] = [found for name, found in tables.items() if f"counts.{column}" in name]
            assert dict(counts) == Counter(row[column] for row in fitted)
        known = {name: set(v) for name, v in compare.vocabularies(features).items()}
        assert len(compare.read(features, "train")) == len(fitted)
        for name, expected in held.items():
            found = compare.decoded(features, name)
            pairs = Counter(zip(found["user_id"], found["item_id"], strict=True))
            assert pairs == Counter(
                tuple(
                    str(row[column]) if row[column] in known[column] else "(2)"
                    for column in ("user_id", "item_id")
                )
                for row in expected
            )
    assert back > 0


def test_ratings_in_the_wrong_order_of_days_do_not_test_before_what_trains(tmp_path):
    ratings = make_ratings()
    settings = SETTINGS.model_copy(update={"split": SPLITS[0]})
    features = tmp_path / "features"
    late = write_raw(tmp_path / "late", days_of(ratings, 2, 6))
    preprocess_interactions(late, features, settings, ONE)
    grow("interactions", write_raw(tmp_path / "early", days_of(ratings, 0, 2)), features)
    times = [compare.read(features, name)["timestamp"] for name in ("valid", "test")]
    assert times[0].max() < times[1].min()
    bounds = read_json(features / "manifest.json")["bounds"]
    trained = days_of(ratings, 0, 6).filter(
        pl.col("timestamp").dt.timestamp("ms") < bounds["valid_start"]
    )
    counts = compare.statistics(features)[0]
    [of_items] = [rows for name, rows in counts.items() if "counts.item_id" in name]
    assert dict(of_items) == Counter(trained["item_id"])
