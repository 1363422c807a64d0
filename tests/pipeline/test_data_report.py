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
from pipeline.preprocess import preprocess_ranking, preprocess_sessions
from tests.pipeline import test_preprocess_ranking as ranking
from tests.pipeline import test_preprocess_sessions as sessions
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
    days = [psi(binned[:400], binned[day * 400 : day * 400 + 400]) for day in range(3)]
    assert entry["psi_by_day"] == pytest.approx(days, abs=1e-6)


@pytest.mark.parametrize("name", DENSE)
def test_a_continuous_column(report, log, name, monkeypatch):
    entry = entry_of(report, name)
    column = log[name]
    values = column.dropna().astype(float)
    for what in ("mean", "std", "min", "max"):
        assert entry[what] == pytest.approx(getattr(values, what)())
    first = column[:400].dropna().astype(float)
    edges = np.unique(np.quantile(first, np.arange(1, BINS) / BINS, method="lower"))
    binned = ["missing" if pd.isna(v) else str((edges < v).sum()) for v in column.tolist()]
    days = [psi(binned[:400], binned[day * 400 : day * 400 + 400]) for day in range(3)]
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
