"""The data report against plain pandas on one core, for both recipes."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from core.artifacts import read_json
from core.cluster import ClusterSettings
from core.errors import UserError
from pipeline import data_report as reports
from pipeline.__main__ import main
from pipeline.data_report import DataReportSettings, columns
from pipeline.data_report.drift import population_stability_index
from pipeline.data_report.logs import raw_logs, read_log
from pipeline.grow import grow
from pipeline.preprocess_interactions import preprocess_interactions
from pipeline.preprocess_ranking import preprocess_ranking
from pipeline.preprocess_sessions import preprocess_sessions
from pipeline.splits import SplitSettings
from tests.pipeline import test_grow_sessions as growing
from tests.pipeline import test_interactions as ratings
from tests.pipeline import test_preprocess_ranking as ranking
from tests.pipeline import test_preprocess_sessions as sessions
from tests.pipeline import test_reference_sessions as reference
from tests.pipeline.grown import take_shards
from workflows.ranking import CATEGORICAL, DENSE, LABEL

BINS = 6
SETTINGS = DataReportSettings(top_values=3, psi_bins=BINS, psi_least_rows=1)
TRAIN, VALID = 720, 900
"""Where the valid and test rows begin of the 1200 of the ranking log."""


def add_inputs(raw):
    """What ingest writes beside the shards that the tests of preprocess make."""
    manifest = read_json(raw / "manifest.json")
    manifest["inputs"] = [{"file": f"logs/day_{n}"} for n in range(len(manifest["shards"]))]
    manifest["columns"] = {
        name: str(pq.read_schema(raw / manifest["shards"][0]["file"]).field(name).type)
        for name in manifest["columns"]
    }
    manifest["format"] = "criteo"
    (raw / "manifest.json").write_text(json.dumps(manifest))
    return raw


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    raw = add_inputs(ranking.write_raw(folder / "raw"))
    preprocess_ranking(raw, folder / "features", ranking.SETTINGS, ClusterSettings(workers=1))
    return raw, folder / "features"


@pytest.fixture(scope="module")
def report(folders):
    return reports.data_report("ranking", *folders, SETTINGS)


@pytest.fixture(scope="module")
def log(folders):
    shards = sorted(folders[0].glob("*.parquet"))
    return pd.concat([pd.read_parquet(p, dtype_backend="numpy_nullable") for p in shards])


def psi(expected, found):
    """The definition, over two lists of bins."""
    kinds = sorted(set(expected) | set(found))
    p = np.array([expected.count(kind) + 0.5 for kind in kinds])
    q = np.array([found.count(kind) + 0.5 for kind in kinds])
    p, q = p / p.sum(), q / q.sum()
    return sum((b - a) * np.log(b / a) for a, b in zip(p, q, strict=True))


def entry_of(report, name):
    [entry] = [column for column in report["columns"] if column["column"] == name]
    return entry


def test_rows_and_days(report, log):
    assert (report["rows"], report["days"], report["quarantined"]) == (1200, 3, 0)
    assert report["splits"] == {"train": 720, "valid": 180, "test": 300}
    assert [day["day"] for day in report["by_day"]] == ["day_0", "day_1", "day_2"]
    rates = log.groupby("day")[LABEL].mean().astype(float)
    assert [day["click_rate"] for day in report["by_day"]] == pytest.approx(rates.tolist())
    names = [column["column"] for column in report["columns"]]
    assert names == [*DENSE, *CATEGORICAL]


@pytest.mark.parametrize("name", CATEGORICAL)
def test_a_categorical_column(report, log, name):
    entry = entry_of(report, name)
    column, train = log[name], log[name][:TRAIN]
    assert entry["missing"] == pytest.approx(column.isna().mean(), abs=1e-6)
    assert entry["missing_by_split"]["test"] == pytest.approx(
        column[VALID:].isna().mean(), abs=1e-6
    )
    counts = train.value_counts()
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    enough = [(value, count) for value, count in ranked if count >= 3][: 40 - 3]
    assert entry["cardinality"] == len(counts)
    assert (entry["kept"], entry["dropped"]) == (len(enough), len(counts) - len(enough))
    kept_rows = sum(count for _, count in enough)
    assert entry["dropped_share"] == pytest.approx(1 - kept_rows / counts.sum(), abs=1e-6)
    told = [(int(top["value"], 16), top["count"]) for top in entry["top"]]
    assert told == [(value, count) for value, count in ranked[:3]]
    for split, rows in (("valid", column[TRAIN:VALID]), ("test", column[VALID:])):
        present = rows.dropna()
        assert entry["unseen"][split] == pytest.approx(
            (~present.isin(counts.index)).mean(), abs=1e-6
        )
        with_code = rows.isna() | rows.isin([value for value, _ in enough])
        assert entry["unknown"][split] == pytest.approx((~with_code).mean(), abs=1e-6)
    top = [value for value, _ in ranked[:BINS]]
    binned = ["missing" if pd.isna(v) else str(v) if v in top else "rest" for v in column.tolist()]
    days = [psi(binned[:TRAIN], binned[day * 400 : day * 400 + 400]) for day in range(3)]
    assert entry["psi_by_day"] == pytest.approx(days, abs=1e-6)


@pytest.mark.parametrize("name", DENSE)
def test_a_continuous_column(report, log, name, monkeypatch):
    entry = entry_of(report, name)
    column = log[name]
    values = column.dropna().astype(float)
    for what in ("mean", "std", "min", "max"):
        assert entry[what] == pytest.approx(getattr(values, what)())
    first = column[:TRAIN].dropna().astype(float)
    edges = np.unique(np.quantile(first, np.arange(1, BINS) / BINS, method="lower"))
    binned = ["missing" if pd.isna(v) else str((edges < v).sum()) for v in column.tolist()]
    days = [psi(binned[:TRAIN], binned[day * 400 : day * 400 + 400]) for day in range(3)]
    assert entry["psi_by_day"] == pytest.approx(days, abs=1e-6)


def test_a_shifted_day_is_told(folders, tmp_path):
    raw = add_inputs(ranking.write_raw(tmp_path / "raw"))
    path = raw / "part-00002.parquet"
    frame = pl.read_parquet(path)
    # The third day's I1 is four times as large, and its C26 is one value only.
    shifted = frame.with_columns(pl.col("I1") * 4, pl.lit(7, pl.Int64).alias("C26"))
    shifted.write_parquet(path)
    features = tmp_path / "features"
    preprocess_ranking(raw, features, ranking.SETTINGS, ClusterSettings(workers=1))
    report = reports.data_report("ranking", raw, features, SETTINGS)
    assert entry_of(report, "I1")["psi_by_day"][2] > 0.25 > entry_of(report, "I1")["psi_by_day"][1]
    assert entry_of(report, "C26")["psi_by_day"][2] > 1
    largest = max(max(column["psi_by_day"]) for column in report["columns"])
    assert report["most_psi"]["value"] == largest
    assert entry_of(report, "I2")["psi_by_day"][2] < 0.25


def test_an_index_of_equal_shares_is_zero_and_of_disjoint_ones_is_finite():
    assert population_stability_index(np.array([5, 5, 0]), np.array([50, 50, 0])) < 0.01
    assert 1 < population_stability_index(np.array([9, 0]), np.array([0, 9])) < 10
    assert np.isnan(population_stability_index(np.array([1, 2]), np.array([0, 0])))


def test_the_sample_of_a_long_day_is_spread_over_it(folders, report, monkeypatch):
    monkeypatch.setattr(columns, "SAMPLE", 100)
    sampled = reports.data_report("ranking", *folders, SETTINGS)
    for name in DENSE:
        assert entry_of(sampled, name)["mean"] == entry_of(report, name)["mean"]


def test_sessions(tmp_path):
    events = sessions.make_events(text_ids=True)
    raw = sessions.write_raw(tmp_path / "raw", events)
    manifest = read_json(raw / "manifest.json")
    types = {"session_id": "string", "item_id": "string", "timestamp": "timestamp[ms, tz=UTC]"}
    types |= {"category": "int64", "price": "float"}
    (raw / "manifest.json").write_text(json.dumps({**manifest, "columns": types}))
    features = tmp_path / "features"
    preprocess_sessions(raw, features, sessions.SETTINGS, ClusterSettings(workers=1))
    report = reports.data_report("sessions", raw, features, SETTINGS)
    frame = events.to_pandas()
    dates = frame["timestamp"].dt.strftime("%Y-%m-%d")
    assert {day["day"]: day["rows"] for day in report["by_day"]} == dates.value_counts().to_dict()
    assert report["unit"] == "sessions"
    assert [c["column"] for c in report["columns"]] == ["item_id", "category", "price"]
    price = entry_of(report, "price")
    assert price["missing"] == pytest.approx(frame["price"].isna().mean(), abs=1e-6)
    assert price["mean"] == pytest.approx(frame["price"].mean())
    train = pl.read_parquet(features / "train" / "*.parquet")["item_id"].explode()
    item = entry_of(report, "item_id")
    assert item["cardinality"] == item["kept"] == train.n_unique()
    codes = pl.read_parquet(features / "test" / "*.parquet")["item_id"].explode()
    assert item["unknown"]["test"] == pytest.approx((codes == 2).mean(), abs=1e-6)
    assert item["top"][0]["value"].startswith("item ")


def typed(raw):
    """Names and types of the columns in the manifest, as ingest writes them."""
    manifest = read_json(raw / "manifest.json")
    schema = pq.read_schema(raw / manifest["shards"][0]["file"])
    columns = {name: str(schema.field(name).type) for name in manifest["columns"]}
    (raw / "manifest.json").write_text(json.dumps({**manifest, "columns": columns}))
    return raw


def rows_by_split(events, settings):
    """The events of each split before any filter."""
    found = {}
    for row in events.with_columns(pl.col("timestamp").dt.timestamp("ms")).to_dicts():
        found.setdefault(row["session_id"], []).append(row)
    for rows in found.values():
        rows.sort(key=lambda row: row["timestamp"])
    if settings.split.kind != "leave_one_out":
        splits = reference.split_by_start(found, settings.split)
        return {name: [row for rows in group.values() for row in rows]
                for name, group in splits.items()}  # fmt: skip
    splits = {"train": [], "valid": [], "test": []}
    for rows in map(reference.dropped_repeats, found.values()):
        held = 2 if len(rows) >= 3 else 0
        splits["train"] += rows[: len(rows) - held]
        for name, row in zip(("valid", "test"), rows[len(rows) - held :], strict=False):
            splits[name].append(row)
    return splits


@pytest.mark.parametrize("split", reference.SPLITS, ids=lambda split: split.kind)
def test_missing_and_unseen_events_of_each_split(tmp_path, split):
    events = reference.make_events(seed=2)
    settings = reference.SETTINGS.model_copy(update={"split": split})
    raw = typed(sessions.write_raw(tmp_path / "raw", events, 3))
    preprocess_sessions(raw, tmp_path / "features", settings, ClusterSettings(workers=1))
    report = reports.data_report("sessions", raw, tmp_path / "features", SETTINGS)
    rows = rows_by_split(events, settings)
    trained = reference.sessions_of(events, settings)["train"].values()
    for name in ("item_id", "category", "colour", "price", "discount", "stock"):
        entry = entry_of(report, name)
        seen = {row[name] for of_session in trained for row in of_session}
        for which, mine in rows.items():
            present = [row[name] for row in mine if row[name] is not None]
            missing = 1 - len(present) / len(mine)
            assert entry["missing_by_split"][which] == pytest.approx(missing, abs=1e-6)
            if name in ("item_id", "category", "colour") and which != "train":
                unseen = sum(value not in seen for value in present) / len(present)
                assert entry["unseen"][which] == pytest.approx(unseen, abs=1e-6)


def test_a_test_file_of_its_own_is_told_apart(tmp_path):
    events = reference.make_events(sessions=80)
    raw = sessions.write_raw(tmp_path / "raw", events, 4, source_of=lambda number: int(number == 3))
    update = {"split": SplitSettings(kind="files", valid=0.2)}
    settings = reference.SETTINGS.model_copy(update=update)
    preprocess_sessions(typed(raw), tmp_path / "features", settings, ClusterSettings(workers=1))
    report = reports.data_report("sessions", raw, tmp_path / "features", SETTINGS)
    tested = pl.read_parquet(raw / "part-00003.parquet")["discount"]
    found = entry_of(report, "discount")["missing_by_split"]
    assert found["test"] == pytest.approx(tested.null_count() / len(tested), abs=1e-6)
    assert set(found) == {"train", "valid", "test"}


def test_features_that_grew_are_told_as_all_days_at_once(tmp_path):
    raw = add_inputs(ranking.write_raw(tmp_path / "all"))
    logs = []
    for number, days in enumerate(([0, 1], [2])):
        logs.append(take_shards(raw, tmp_path / f"raw{number}", days))
        manifest = read_json(logs[-1] / "manifest.json")
        for at, shard in enumerate(manifest["shards"]):
            shard["source_index"] = at
        manifest["inputs"] = [{"file": f"logs/day_{day}"} for day in days]
        (logs[-1] / "manifest.json").write_text(json.dumps(manifest))
    one = ClusterSettings(workers=1)
    preprocess_ranking(raw, tmp_path / "at_once", ranking.SETTINGS, one)
    preprocess_ranking(logs[0], tmp_path / "features", ranking.SETTINGS, one)
    grow("ranking", logs[1], tmp_path / "features", ranking.SETTINGS, one)
    report = reports.data_report("ranking", logs, tmp_path / "features", SETTINGS)
    expected = reports.data_report("ranking", raw, tmp_path / "at_once", SETTINGS)
    for entry, other in zip(report["columns"], expected["columns"], strict=True):
        # Rows that trained before were coded by the fit of that time, and so was the order in
        # which values took the last codes of max_size.
        for name in ("unknown", "kept", "dropped", "dropped_share"):
            entry.pop(name, None), other.pop(name, None)
        assert entry == other
    assert report["by_day"] == expected["by_day"] and report["splits"] == expected["splits"]
    for wrong in (logs[:1], logs[::-1], raw):
        with pytest.raises(UserError, match=r"made from 2 raw logs.*oldest first"):
            reports.data_report("ranking", wrong, tmp_path / "features", SETTINGS)


def test_sessions_that_go_on_in_a_later_log(tmp_path):
    old = [growing.event(s, 10 * s + n, n + s) for s in range(10) for n in range(3)]
    later = [growing.event(1, 200, 5), growing.event(1, 201, 6), growing.event(8, 202, 4)]
    later += [growing.event(s, 10 * s + n, n + s) for s in range(30, 36) for n in range(3)]
    later += [growing.event(6, 203, 4)]
    # Session 6 trains by now: what follows is a further session of that id. 1 and 8 are open.
    last = [growing.event(6, 500, 1), growing.event(6, 501, 2), growing.event(8, 502, 2)]
    last += [growing.event(1, 502, 3), growing.event(1, 503, 4)]
    last += [growing.event(s, 10 * s + n, n + 1) for s in range(60, 66) for n in range(3)]
    rows = enumerate((old, later, last))
    logs = [typed(growing.log_of(tmp_path / f"raw{n}", events)) for n, events in rows]
    features, one = tmp_path / "features", ClusterSettings(workers=1)
    preprocess_sessions(logs[0], features, growing.PLAIN, one)
    for more in logs[1:]:
        grow("sessions", more, features, growing.PLAIN, one)
    log = read_log(
        "sessions", raw_logs(logs, features), features, read_json(features / "manifest.json")
    )
    places = {}
    for number, split in enumerate(("train", "valid", "test")):
        for session, start in growing.items_of(features, split):
            places.setdefault(session, []).append((start, number))
    assert {session: len(places[session]) for session in (1, 6, 8)} == {1: 2, 6: 2, 8: 1}
    for shard, splits in zip(log.shards, log.splits, strict=True):
        events = pl.read_parquet(shard.path)
        times = events["timestamp"].dt.timestamp("ms")
        for session, time, found in zip(events["session_id"], times, splits, strict=True):
            # The part of the session that began last before the event.
            assert found == max(place for place in places[session] if place[0] <= time)[1]


@pytest.mark.parametrize("split", ratings.SPLITS, ids=lambda split: split.kind)
def test_ratings(tmp_path, split):
    log = ratings.make_ratings().with_columns(
        pl.when(pl.int_range(pl.len()) % 7 > 0).then("rating").alias("extra")
    )
    raw = typed(sessions.write_raw(tmp_path / "raw", log, 3))
    settings = ratings.SETTINGS.model_copy(update={"split": split})
    preprocess_interactions(raw, tmp_path / "features", settings, ClusterSettings(workers=1))
    report = reports.data_report("interactions", raw, tmp_path / "features", SETTINGS)
    rows = log.with_columns(pl.col("timestamp").dt.timestamp("ms")).to_dicts()
    placed = list(zip(rows, ratings.split_of(rows, split), strict=True))
    assert [c["column"] for c in report["columns"]] == ["user_id", "item_id", "rating", "extra"]
    for which in ("train", "valid", "test"):
        mine = [row for row, name in placed if name == which]
        assert report["splits"][which] == len(mine)
        absent = sum(row["extra"] is None for row in mine) / len(mine)
        found = entry_of(report, "extra")["missing_by_split"][which]
        assert found == pytest.approx(absent, abs=1e-6)
        for column in ("user_id", "item_id"):
            seen = {row[column] for row, name in placed if name == "train"}
            unseen = sum(row[column] not in seen for row in mine) / len(mine)
            if which != "train":
                told = entry_of(report, column)["unseen"][which]
                assert told == pytest.approx(unseen, abs=1e-6)


def test_the_command_writes_json_and_a_page(folders, tmp_path):
    raw, features = folders
    output, plots = tmp_path / "metrics" / "data.json", tmp_path / "plots"
    options = ["--raw", str(raw), "--features", str(features), "--output", str(output)]
    assert main(["inspect", "ranking", *options, "--plots", str(plots)]) == 0
    told = read_json(output)
    assert told["rows"] == 1200 and len(told["columns"]) == 39
    page = (plots / "index.html").read_text()
    assert page.count("<svg") == 5 and "Drift" in page
    # Nothing is fetched: no address but the names of XML's own spaces.
    assert "<script" not in page and "src=" not in page and "@import" not in page
    assert {path.name for path in plots.glob("[!.]*")} == {
        "index.html",
        "days.json",
        "drift.json",
        "unknown.json",
    }
    assert main(["inspect", "ranking", *options, "--plots", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "index.html").read_text() == page


def test_what_is_not_preprocessed_is_refused(folders, tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.json there; run 'merlin-pipeline prep"):
        reports.data_report("ranking", folders[0], tmp_path)
