"""Click logs with several categories a row, from three formats to scores."""

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch

from core.merlin import schema_from_json
from pipeline.__main__ import main
from pipeline.params import Params
from pipeline.stages.train import load_model
from tests.pipeline import grown as compare
from training import ranking
from training.batches import Batches

ROWS, TRAIN, VALID, THRESHOLD, MOST = 900, 576, 720, 3, 3
GENRES = ["Action", "Comedy", "Drama", "Film-Noir", "a,b", "Ümläut", "Sci Fi"]
SETTINGS = """
ranking:
  source:
    columns:
      labels: [click, buy]
      categorical: [user, main]
      multi_valued: [genres, tags]
      continuous: [price]
  preprocess:
    split: {test: 0.2, valid: 0.2}
    rows_per_part: 150
    workflow:
      freq_threshold: 3
      max_values: 3
      shared_vocabularies: [[main, genres]]
      columns: {tags: {num_buckets: 2}}
  train: {epochs: 1, batch_size: 128}
  deepfm: {embedding_dim: 4, deep_mlp: [8]}
  model: deepfm
"""


def made_log():
    rng = np.random.default_rng(0)
    rows = []
    for row in range(ROWS):
        genres = [GENRES[at] for at in rng.integers(0, len(GENRES), rng.integers(0, 5))]
        tags = (rng.zipf(1.4, rng.integers(0, 6)) % 90 + (row > VALID) * 60).tolist()
        click = int(rng.random() < 0.2 + 0.5 * ("Drama" in genres))
        rows.append(
            {
                "user": int(rng.zipf(1.5) % 30),
                "main": genres[0] if genres else None,
                "genres": None if row % 13 == 0 else genres,
                "tags": tags,
                "price": round(float(rng.normal()), 3),
                "click": click,
                "buy": int(rng.random() < 0.5),
            }
        )
    return pl.DataFrame(rows)


def write(log, path):
    if path.suffix == ".parquet":
        log.write_parquet(path)
    elif path.suffix == ".jsonl":
        log.write_ndjson(path)
    else:
        lists = pl.col("genres", "tags").cast(pl.List(pl.String)).list.join("|")
        log.with_columns(lists).write_csv(path)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with features of the log in three formats, and the log."""
    folder = tmp_path_factory.mktemp("lists")
    log = made_log()
    write(log[VALID:].drop("click", "buy"), folder / "new.csv")
    (folder / "params.yaml").write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for kind in ("csv", "jsonl", "parquet"):
            write(log, folder / f"log.{kind}")
            assert main(["ingest", "ranking", "--input", f"log.{kind}", "--output", kind]) == 0
        for kind in ("csv", "jsonl", "parquet"):
            options = ["--input", kind, "--output", f"{kind}-features"]
            assert main(["preprocess", "ranking", *options]) == 0
    return folder, log


def features(project, split):
    return compare.read(project[0] / "csv-features", split)


def schema_of(project):
    return schema_from_json((project[0] / "csv-features/schema.json").read_text())


def batch_of(project, split):
    (batch,) = Batches(project[0] / "csv-features" / split, schema_of(project), ROWS, shuffle=False)
    return batch


def test_three_formats_give_the_same_bytes(project):
    folders = [project[0] / f"{kind}-features" for kind in ("csv", "jsonl", "parquet")]
    names = [
        str(path.relative_to(folders[0]))
        for split in ("train", "valid", "test")
        for path in sorted((folders[0] / split).glob("*.parquet"))
    ]
    assert len(names) > 5
    for name in names:
        assert len({(folder / name).read_bytes() for folder in folders}) == 1, name


def kept(values):
    return (values or [])[:MOST]


def codes_by_frequency(values, first):
    counts = Counter(values)
    known = sorted((v for v, n in counts.items() if n >= THRESHOLD), key=lambda v: (-counts[v], v))
    return {value: first + place for place, value in enumerate(known)}


def test_codes_are_those_of_a_plain_dict(project):
    log = project[1]
    training = log[:TRAIN]
    genres = [one for row in training["genres"].to_list() for one in kept(row)]
    known = codes_by_frequency(genres + training["main"].drop_nulls().to_list(), 3)
    expected = [[known.get(v, 2) for v in kept(row)] or [1] for row in log["genres"].to_list()]
    codes = [
        code
        for split in ("train", "valid", "test")
        for code in features(project, split)["genres"].to_list()
    ]
    assert codes == expected
    main_codes = [1 if v is None else known.get(v, 2) for v in log["main"][VALID:]]
    assert features(project, "test")["main"].to_list() == main_codes

    tags = codes_by_frequency([t for row in training["tags"].to_list() for t in kept(row)], 4)
    for codes, row in zip(
        features(project, "test")["tags"].to_list(), log["tags"][VALID:].to_list(), strict=True
    ):
        assert len(codes) == max(1, len(kept(row)))
        for code, value in zip(codes, kept(row), strict=False):
            assert code == tags[value] if value in tags else code in (2, 3)


def test_the_manifest_counts_values_not_rows(project):
    counts = json.loads((project[0] / "csv-features/manifest.json").read_text())["splits"]["test"]
    made = features(project, "test")
    assert counts["values"] == ROWS - VALID
    lengths = {name: made[name].list.len().sum() for name in ("genres", "tags")}
    assert counts["list_values"] == lengths
    unknown = made["tags"].explode().is_in([2, 3]).sum()
    assert counts["oov_rate"]["tags"] == pytest.approx(unknown / lengths["tags"], abs=1e-6)
    assert unknown > 20


def test_a_list_is_the_mean_of_its_vectors(project):
    schema, (inputs, _) = schema_of(project), batch_of(project, "test")
    settings = ranking.settings_class("logistic_regression")()
    model = ranking.build("logistic_regression", schema, settings, seed=1)
    for weight in model.parameters():
        torch.nn.init.normal_(weight)
    part = model.body.first_order
    table = part.codes.table.weight.detach()
    expected = part.linear(inputs["price"][:, None])[:, 0] if hasattr(part, "linear") else 0
    for name in part.codes.names:
        own = table[part.codes.rows(name)]
        if name in ("user", "main"):
            expected = expected + own[inputs[name].long(), 0]
            continue
        offsets = inputs[f"{name}__offsets"][:-1]
        bags = torch.nn.functional.embedding_bag(
            inputs[f"{name}__values"].long(), own, offsets, mode="mean"
        )
        expected = expected + bags[:, 0]
    logits = model(inputs)
    difference = (logits - expected).detach()
    assert difference.std() < 1e-5 < logits.std()  # one bias apart


@pytest.mark.parametrize("name", ranking.MODELS)
def test_every_click_model_learns_from_lists(project, name):
    schema, batch = schema_of(project), batch_of(project, "train")
    model = ranking.build(name, schema, ranking.settings_class(name)(), seed=1)
    model.train(False)  # without dropout the loss falls with a short step
    before = model.loss(batch)
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                step = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
                parameter -= 1e-3 * step
    assert model.loss(batch) < before


def test_rows_are_sorted_by_their_time(project, monkeypatch):
    monkeypatch.chdir(project[0])
    log = project[1].with_columns(at=pl.Series(np.arange(ROWS) * 100 + 1_600_000_000))
    write(log.sample(fraction=1.0, shuffle=True, seed=0), project[0] / "mixed.csv")
    columns = "{labels: [click, buy], categorical: [user, main], multi_valued: [genres, tags], "
    timed = ["--set", f"ranking.source.columns={columns} continuous: [price], timestamp: at}}"]
    assert main(["ingest", "ranking", "--input", "mixed.csv", "--output", "mixed", *timed]) == 0
    options = ["--input", "mixed", "--output", "sorted", *timed]
    assert main(["preprocess", "ranking", *options]) == 0
    for split in ("train", "test"):
        assert compare.read(project[0] / "sorted", split).equals(features(project, split))


def test_scores_are_those_of_the_evaluation(project, monkeypatch):
    folder = project[0]
    monkeypatch.chdir(folder)
    at = ["--features", "csv-features"]
    assert main(["train", "ranking", "--input", "csv-features", "--output", "model"]) == 0
    assert main(["evaluate", "ranking", *at, "--model", "model"]) == 0
    assert main(["export", "ranking", *at, "--model", "model", "--output", "bundle"]) == 0
    options = ["--bundle", "bundle", "--input", "new.csv", "--output", "s.parquet"]
    assert main(["score", *options]) == 0
    scored = pl.read_parquet("s.parquet")["probability"].to_numpy()
    model, _ = load_model(folder / "model", schema_of(project))
    expected = model.predict(batch_of(project, "test")).sigmoid().detach().numpy()
    np.testing.assert_allclose(scored, expected, rtol=1e-5)
    assert np.ptp(scored) > 0
    write(project[1][VALID:].drop("click", "buy"), folder / "new.jsonl")
    assert main(["score", *options[:3], "new.jsonl", "--output", "j.parquet"]) == 0
    assert (pl.read_parquet("j.parquet")["probability"].to_numpy() == scored).all()


def test_the_data_report_counts_each_value(project, monkeypatch):
    monkeypatch.chdir(project[0])
    options = ["--raw", "csv", "--features", "csv-features"]
    assert main(["inspect", "ranking", *options]) == 0
    report = json.loads((project[0] / "metrics/ranking-data.json").read_text())
    described = {column["column"]: column for column in report["columns"]}
    lists = project[1]["genres"].to_list()
    assert described["genres"]["rows"] == sum(max(1, len(row or ())) for row in lists)
    missing = sum(not row for row in lists)
    assert described["genres"]["missing"] == pytest.approx(
        missing / described["genres"]["rows"], abs=1e-6
    )


def test_growing_adds_new_values_at_the_end(project, monkeypatch):
    monkeypatch.chdir(project[0])
    log = project[1]
    new = log.with_columns(genres=pl.lit(["Drama", "New"]).alias("genres"))
    write(new, project[0] / "next.parquet")
    grow = ["--set", "ranking.preprocess.split.kind=fraction"]
    assert main(["ingest", "ranking", "--input", "next.parquet", "--output", "next"]) == 0
    assert main(["preprocess", "ranking", "--input", "parquet", "--output", "grown", *grow]) == 0
    before = compare.vocabularies(project[0] / "grown")
    first = schema_of(project)["genres"].int_domain.max
    options = ["--input", "next", "--output", "grown", "--grow", *grow]
    assert main(["preprocess", "ranking", *options]) == 0
    after = compare.vocabularies(project[0] / "grown")
    for name, values in before.items():
        assert after[name][: len(values)] == values
    assert after["main_genres"][-1] == "New"
    made = compare.read(project[0] / "grown", "test")["genres"].to_list()
    assert made[-1] == [after["main_genres"].index("Drama") + 3, first + 1]


def test_settings_that_take_single_values_are_refused():
    columns = {"labels": ["a"], "categorical": ["b"], "multi_valued": ["c"]}
    for setting, value in {
        "hashing": {"c": 10},
        "crosses": [["b", "c"]],
        "target_encoding": ["c"],
        "counts": ["c"],
        "target_crosses": [["b", "c"]],
    }.items():
        tree = {
            "ranking": {
                "source": {"columns": columns},
                "preprocess": {"workflow": {setting: value}},
            }
        }
        with pytest.raises(Exception, match=f"{setting}.* takes .*, c is multi_valued"):
            Params(tree).section("ranking.preprocess")
