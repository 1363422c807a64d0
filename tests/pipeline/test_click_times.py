"""Click logs with a time column: sorted by it whatever the files, split by it, grown by it."""

import numpy as np
import polars as pl
import pytest

from core.cluster import ClusterSettings
from core.errors import UserError
from core.settings import validate
from pipeline import sort_by_time
from pipeline.data_report.logs import raw_logs, read_log
from pipeline.grow import grow
from pipeline.ingest.clicks import ClickSourceSettings
from pipeline.preprocess_ranking import RankingPreprocessSettings, preprocess_ranking
from pipeline.splits import DAY, SPLITS
from pipeline.stages.ingest import ingest

FIRST_DAY = 18_900
ONE = ClusterSettings(workers=1)
COLUMNS = {"labels": ["click"], "categorical": ["hour"], "continuous": ["n"], "timestamp": "at"}
KINDS = [
    {"kind": "fraction", "test": 0.25, "valid": 0.2},
    {"kind": "days", "test_days": 2, "valid": 0.3},
    {"kind": "last_day_halves"},
    {"kind": "window", "test_day": -2, "train_days": 3, "valid": 0.25},
    {"kind": "fraction", "test": 0.3, "valid": 0},
]


def made_rows(seed, in_order=False):
    """Rows of a week; often several, sometimes all of an hour, have the same time."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(400, 900))
    grain = [1, 1000, 3_600_000][seed % 3]
    times = FIRST_DAY * DAY + rng.integers(0, 7 * DAY, count) // grain * grain
    times[:7] = (FIRST_DAY + np.arange(7)) * DAY + 5 * grain
    times = np.sort(times) if in_order else rng.permutation(times)
    return pl.DataFrame(
        {
            "at": times,
            "hour": times // 3_600_000 % 24,
            "n": np.arange(count),
            "click": rng.integers(0, 2, count),
        }
    )


def ingested(folder, rows, files=1, **settings):
    log = folder / "log"
    log.mkdir(parents=True)
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        rows[part].write_csv(log / f"clicks_{number}.csv")
    tree = {"columns": COLUMNS, "time_format": "unix_ms", "rows_per_shard": 97, **settings}
    source = validate(ClickSourceSettings, tree, "test")
    ingest("ranking", source, log, folder / "raw", quiet=True)
    return folder / "raw"


def settings_for(split, rows_per_part=60):
    workflow = {
        "labels": ("click",),
        "categorical": ("hour",),
        "continuous": ("n",),
        "dense_transform": "none",
        "columns": {"n": {"scale": "none", "missing": 0}},
        "freq_threshold": 1,
    }
    return RankingPreprocessSettings(split=split, workflow=workflow, rows_per_part=rows_per_part)


def rows_of(features, split):
    parts = sorted((features / split).glob("*.parquet"))
    return [int(n) for part in parts for n in pl.read_parquet(part)["n"]]


def expected_splits(rows, split):
    """The rows of each split in the order of time, from the definition; rows of the very time of a
    cut are on its later side."""
    order = np.argsort(rows["at"].to_numpy(), kind="stable")
    times, numbers = rows["at"].to_numpy()[order], rows["n"].to_numpy()[order]
    last_day = times[-1] // DAY
    begin, end = 0, times[-1] + 1
    if split["kind"] == "fraction":
        test = times[min(round(len(times) * (1 - split["test"])), len(times) - 1)]
    elif split["kind"] == "days":
        test = (last_day - split["test_days"] + 1) * DAY
    elif split["kind"] == "window":
        test = (last_day + 1 + split["test_day"]) * DAY
        begin, end = test - split["train_days"] * DAY, test + DAY
    else:
        valid, of_day = last_day * DAY, times[times >= last_day * DAY]
        test = of_day[len(of_day) // 2]
    if split["kind"] != "last_day_halves":
        before = times[(times >= begin) & (times < test)]
        cut = round(len(before) * (1 - split["valid"]))
        valid = before[min(cut, len(before) - 1)] if split["valid"] else test
    at = np.searchsorted(times, [begin, valid, test, end])
    return {name: numbers[at[i] : at[i + 1]].tolist() for i, name in enumerate(SPLITS)}


@pytest.mark.parametrize("seed", range(7))
def test_rows_are_sorted_and_split_by_time_whatever_their_files(tmp_path, seed, monkeypatch):
    monkeypatch.setattr(sort_by_time, "SAMPLED", 16)
    rows, split = made_rows(seed), KINDS[seed % len(KINDS)]
    rng = np.random.default_rng(seed)
    raw = ingested(tmp_path, rows, int(rng.integers(1, 6)))
    features = tmp_path / "out"
    preprocess_ranking(raw, features, settings_for(split, int(rng.integers(1, 700))), ONE)
    expected = expected_splits(rows, split)
    for name in SPLITS:
        assert rows_of(features, name) == expected[name], name


def test_a_sorted_and_a_shuffled_log_give_the_same_splits(tmp_path):
    rows = made_rows(1, in_order=True)
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=3)
    manifests = []
    for name, given in (("sorted", rows), ("shuffled", shuffled)):
        raw = ingested(tmp_path / name, given, 3)
        features = tmp_path / name / "out"
        manifests.append(preprocess_ranking(raw, features, settings_for(KINDS[1]), ONE))
    assert manifests[0]["bounds"] == manifests[1]["bounds"]
    for name in SPLITS:
        first, second = (rows_of(tmp_path / kind / "out", name) for kind in ("sorted", "shuffled"))
        assert sorted(first) == sorted(second) and len(first)


@pytest.mark.parametrize("seed", range(4))
def test_features_grow_by_time(tmp_path, seed):
    """New days, some of whose rows are older than rows that train already."""
    rng = np.random.default_rng(seed)
    rows = made_rows(seed)
    late = rng.random(len(rows)) < 0.05
    first = (rows["at"].to_numpy() < (FIRST_DAY + 4) * DAY) & ~late
    split = KINDS[seed % 2]
    settings = settings_for(split, int(rng.integers(20, 300)))
    features = tmp_path / "out"
    preprocess_ranking(ingested(tmp_path / "a", rows.filter(first), 2), features, settings, ONE)
    trained = set(rows_of(features, "train"))
    manifest = grow("ranking", ingested(tmp_path / "b", rows.filter(~first), 3), features, settings)
    grown = {name: rows_of(features, name) for name in SPLITS}
    assert sorted(n for numbers in grown.values() for n in numbers) == list(range(len(rows)))
    assert trained <= set(grown["train"])
    times = rows["at"].to_numpy()
    whole = expected_splits(rows, split)
    if split["kind"] == "days":
        assert sorted(grown["test"]) == sorted(whole["test"])
    bounds = manifest["bounds"]
    assert all(times[n] < bounds["valid_start"] for n in set(grown["train"]) - trained)
    assert all(bounds["valid_start"] <= times[n] < bounds["test_start"] for n in grown["valid"])
    assert all(times[n] >= bounds["test_start"] for n in grown["test"])
    # The data report sees the same splits.
    logs = raw_logs([tmp_path / "a" / "raw", tmp_path / "b" / "raw"], features)
    chunks = list(read_log("ranking", logs, features, manifest).chunks("n"))
    for name in SPLITS:
        seen = [int(n) for c in chunks if name in c.splits for n in c.values[c.splits[name]]]
        assert sorted(seen) == sorted(grown[name])


def test_score_needs_no_time(tmp_path):
    source = validate(ClickSourceSettings, {"columns": COLUMNS}, "test").without_labels()
    pl.DataFrame({"hour": [3, 4], "n": [1, 2]}).write_csv(tmp_path / "log.csv")
    manifest = ingest("ranking", source, tmp_path / "log.csv", tmp_path / "raw", quiet=True)
    assert [*manifest["columns"]] == ["hour", "n"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categorical": ["timestamp"]}, "two columns would be called 'timestamp'"),
        ({"timestamp": "timestamp", "continuous": ["timestamp"]}, "the column of the time"),
    ],
)
def test_another_column_called_timestamp_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        validate(ClickSourceSettings, {"columns": {**COLUMNS, **change}}, "test")


def test_a_row_without_a_time_is_quarantined(tmp_path):
    rows = made_rows(2).with_columns(at=pl.col("at").cast(pl.String))
    rows = rows.with_columns(at=pl.when(pl.col("n") == 7).then(pl.lit("")).otherwise("at"))
    bad = pl.read_parquet(ingested(tmp_path, rows) / "quarantine.parquet")
    assert bad["reason"].to_list() == ["at: missing"]


@pytest.mark.parametrize("form", ["unix_s", "unix_ms", "iso", "date"])
@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("in_order", [True, False])
def test_a_column_that_looks_like_time_is_suggested(tmp_path, capsys, form, read, in_order):
    rows = made_rows(1, in_order)
    texts = pl.from_epoch("at", time_unit="ms").dt.strftime(
        "%Y-%m-%d" if form == "date" else "%Y-%m-%d %H:%M:%S"
    )
    values = {"unix_s": pl.col("at") // 1000, "unix_ms": pl.col("at")}
    rows = rows.with_columns(values.get(form, texts).alias("shown_at")).drop("at")
    columns = {**COLUMNS, "timestamp": None}
    if read:
        columns["categorical"] = ["hour", "shown_at"]
    rows.write_csv(tmp_path / "log.csv")
    source = validate(ClickSourceSettings, {"columns": columns}, "test")
    manifest = ingest("ranking", source, tmp_path / "log.csv", tmp_path / "raw")
    output = " ".join(capsys.readouterr().out.split())
    assert "rows are taken to be in time order" in output
    setting = "set ranking.source.columns.timestamp: shown_at"
    assert (setting in output) == (not read or not in_order)
    made = preprocess_ranking(tmp_path / "raw", tmp_path / "out", settings_for(KINDS[0]), ONE)
    warned = any(setting in warning for warning in made["warnings"])
    assert warned == (not read or not in_order)
    assert manifest["rows_written"] == len(rows)
