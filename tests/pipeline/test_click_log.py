"""The whole road for a click log with columns of its own: two labels, texts, numbers, vectors."""

import json

import numpy as np
import polars as pl
import pytest

from pipeline.__main__ import main
from pipeline.params import Params
from tests.pipeline import grown as compare

ROWS, TRAIN, VALID, THRESHOLD, SMOOTHING = 900, 576, 720, 3, 5.0
SETTINGS = """
ranking:
  source:
    columns:
      labels: [click, buy]
      categorical: [user, page]
      continuous: [price, age]
      vectors: [title]
  preprocess:
    split: {test: 0.2, valid: 0.2}
    rows_per_part: 150
    workflow:
      freq_threshold: 3
      vectors: {title: 2}
      columns: {age: {transform: log, missing: 0}}
      target_encoding: [page]
      target_crosses: [[user, age]]
      target_smoothing: 5.0
      target_scale: mean
  mmoe: {embedding_dim: 4, experts: 2, expert_mlp: [8], tower_mlp: [4]}
  ple: {embedding_dim: 4, levels: 1, expert_mlp: [8]}
  shared_bottom: {embedding_dim: 4, bottom_mlp: [8]}
  deepfm: {embedding_dim: 4, deep_mlp: [8]}
  train: {epochs: 1, batch_size: 128}
"""


def made_log():
    rng = np.random.default_rng(0)
    rows = []
    for row in range(ROWS):
        page = int(rng.zipf(1.5) % 40) + (row > VALID) * 7
        click = int(rng.random() < 0.2 + 0.6 * (page % 2))
        rows.append(
            {
                "user": int(rng.zipf(1.5) % 30) - 5,
                "page": None if page == 3 else f"page {page}, ☂",
                "price": None if row % 11 == 0 else round(float(rng.normal()), 3),
                "age": None if row % 7 == 0 else float(rng.integers(0, 90)),
                "title": None if row % 13 == 0 else [page / 10, -1.0],
                "click": click,
                "buy": int(click and rng.random() < 0.5),
            }
        )
    return pl.DataFrame(rows, schema_overrides={"title": pl.List(pl.Float64)})


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    log = made_log()
    (folder / "log").mkdir()
    log[:400].write_ndjson(folder / "log/1.jsonl")
    log[400:].write_parquet(folder / "log/2.parquet")
    log[VALID:].drop("click", "buy").write_ndjson(folder / "new.jsonl")
    (folder / "params.yaml").write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["ingest", "ranking", "--input", "log"]) == 0
        assert main(["preprocess", "ranking"]) == 0
    return folder, log


def features(road, split):
    return compare.read(road[0] / "data/ranking/features", split)


def test_codes_go_by_frequency_and_rare_values_share_one(road):
    log = road[1]
    for name in ("user", "page"):
        counts = log[:TRAIN][name].drop_nulls().value_counts()
        kept = counts.filter(pl.col("count") >= THRESHOLD)
        by_code = dict(zip(features(road, "train")[name], log[:TRAIN][name], strict=True))
        frequency = dict(counts.iter_rows())
        coded = sorted(code for code in by_code if code >= 3)
        assert coded == list(range(3, 3 + len(kept)))
        assert [frequency[by_code[code]] for code in coded] == sorted(kept["count"], reverse=True)
        known = {value: code for code, value in by_code.items() if code >= 3}
        expected = [known.get(value, 2) if value is not None else 1 for value in log[VALID:][name]]
        assert features(road, "test")[name].to_list() == expected


def test_numbers_vectors_and_labels(road):
    log, found = road[1], features(road, "test")
    price = log["price"].fill_null(log[:TRAIN]["price"].median())
    age = np.log1p(log["age"].fill_null(0.0).to_numpy())
    for name, values in {"price": price.to_numpy(), "age": age}.items():
        expected = (values - values[:TRAIN].mean()) / values[:TRAIN].std(ddof=1)
        np.testing.assert_allclose(found[name], expected[VALID:], atol=1e-5)
    vectors = np.array([vector or [0.0, 0.0] for vector in log[VALID:]["title"].to_list()])
    for dimension in range(2):
        np.testing.assert_allclose(found[f"title_{dimension}"], vectors[:, dimension], rtol=1e-6)
    for name in ("click", "buy"):
        assert found[name].to_list() == log[VALID:][name].to_list()


def test_target_encodings_are_of_the_first_label(road):
    log, found = road[1], features(road, "test")
    training, mean = log[:TRAIN], log[:TRAIN]["click"].mean()

    def level(age):
        number = int(-1 if age is None else age)
        return int(np.log(number) ** 2) + 2 if number > 2 else number

    keys = {
        "page": lambda row: row["page"],
        "user_X_age": lambda row: (row["user"], level(row["age"])),
    }
    for name, key in keys.items():
        clicks: dict = {}
        for row in training.iter_rows(named=True):
            clicks.setdefault(key(row), []).append(row["click"])
        expected = [
            (sum(clicks.get(key(row), [])) + SMOOTHING * mean)
            / (len(clicks.get(key(row), [])) + SMOOTHING)
            for row in log[VALID:].iter_rows(named=True)
        ]
        np.testing.assert_allclose(found[f"TE_{name}_click"], expected, rtol=1e-5)


@pytest.mark.parametrize("model", ["mmoe", "ple", "shared_bottom", "deepfm", "logistic_regression"])
def test_models_of_one_label_and_of_several(road, monkeypatch, model):
    monkeypatch.chdir(road[0])
    chosen = ["--set", f"ranking.model={model}"]
    assert main(["train", "ranking", "--output", model, *chosen]) == 0
    told = ["--model", model, "--metrics", f"{model}.json", "--plots", f"{model}-plots", *chosen]
    assert main(["evaluate", "ranking", *told]) == 0
    metrics = json.loads((road[0] / f"{model}.json").read_text())
    assert ("buy_auc" in metrics) == (model in ("mmoe", "ple", "shared_bottom"))
    assert 0 <= metrics["auc"] <= 1 and metrics["rows"] == ROWS - VALID


def test_scores_of_rows_whose_labels_nobody_knows(road, monkeypatch):
    monkeypatch.chdir(road[0])
    assert main(["train", "ranking", "--set", "ranking.model=mmoe"]) == 0
    assert main(["export", "ranking"]) == 0
    assert main(["score", "--input", "new.jsonl", "--output", "s.parquet"]) == 0
    scored = pl.read_parquet("s.parquet")["probability"].to_numpy()

    from core.merlin import schema_from_json
    from pipeline.stages.train import load_model
    from training.batches import Batches

    folder = road[0] / "data/ranking"
    schema = schema_from_json((folder / "features/schema.json").read_text())
    model, _ = load_model(folder / "model", schema)
    (batch,) = Batches(folder / "features/test", schema, ROWS, shuffle=False)
    expected = model.predict(batch)["click"].sigmoid().detach().numpy()
    np.testing.assert_allclose(scored, expected, rtol=1e-5)


def test_the_report_describes_it(road, monkeypatch):
    monkeypatch.chdir(road[0])
    assert main(["inspect", "ranking"]) == 0
    report = json.loads((road[0] / "metrics/ranking-data.json").read_text())
    described = {column["column"]: column for column in report["columns"]}
    assert set(described) == {"user", "page", "price", "age"}
    clicks = road[1]["click"]
    rates = [clicks[:400].mean(), clicks[400:].mean()]
    assert [day["click_rate"] for day in report["by_day"]] == pytest.approx(rates, abs=1e-6)
    assert isinstance(described["user"]["top"][0]["value"], int)


def test_a_column_that_the_raw_log_lacks(road, monkeypatch, capsys):
    monkeypatch.chdir(road[0])
    named = "ranking.preprocess.workflow.continuous=[price, age, weight]"
    assert main(["preprocess", "ranking", "--output", "other", "--set", named]) == 1
    told = capsys.readouterr().err
    assert "ranking.preprocess.workflow.continuous: the raw log has no column weight" in told
    assert "ranking.source.columns" in told and "Traceback" not in told


def test_columns_that_are_read_are_those_of_the_workflow():
    source = {"columns": {"labels": ["a"], "categorical": ["b"]}}
    tree = {"ranking": {"source": source, "preprocess": {"workflow": {"categorical": []}}}}
    with pytest.raises(Exception, match="at least one of continuous, categorical"):
        Params(tree).section("ranking.preprocess")
    workflow = Params({"ranking": {"source": source}}).section("ranking.preprocess").workflow
    assert (workflow.labels, workflow.categorical, workflow.continuous) == (("a",), ("b",), ())
