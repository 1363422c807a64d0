"""Probabilities of ``score`` are those that evaluation judges, and can be joined to the log."""

import csv
import gzip
import json
import random

import numpy as np
import polars as pl
import pytest
import torch

from core.errors import UserError
from pipeline.__main__ import main
from pipeline.feature_folder import read_schema
from pipeline.model_folder import load_model
from pipeline.params import Params
from pipeline.scoring import score
from pipeline.stages.export import export
from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import preprocess
from pipeline.stages.train import train
from training.batches import Batches
from training.ranking import MODELS, settings_class

ROWS, VALID = 400, 320
SMALL = {"embedding_dim": 4, "deep_mlp": [8], "bottom_mlp": [8, 4], "top_mlp": [8], "hidden": [8],
         "expert_mlp": [8], "tower_mlp": [4], "attention_size": 4, "experts": 2}  # fmt: skip
NAMES = ["order", "user", "page", "note", "price", "click", "buy"]


def random_rows(rng):
    """Rows with an id of their own, texts that look like numbers, and gaps."""
    for row in range(ROWS):
        page = min(rng.randrange(20), rng.randrange(20)) + 3 * (row > VALID)
        yield {
            "order": f"{row:05d}",
            "user": "" if row % 13 == 0 else str(2**60 + rng.randrange(30)),
            "page": "" if page == 3 else f"0{page}",
            "note": rng.choice(("a;b", 'say "so"', "", "x|y")),
            "price": "" if row % 11 == 0 else f"{rng.gauss(0, 1):.3f}",
            "click": str(int(rng.random() < 0.2 + 0.6 * (page % 2))),
            "buy": str(int(rng.random() < 0.3)),
        }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    rows = list(random_rows(random.Random(0)))
    write(folder / "log.csv", rows, NAMES)
    params = settings()
    ingest("ranking", params.section("ranking.source"), folder / "log.csv", folder / "raw")
    preprocess("ranking", folder / "raw", folder / "features", params)
    return folder, rows


def settings(**more):
    columns = {"labels": ["click", "buy"], "categorical": ["user", "page"], "continuous": ["price"]}
    tree = {
        "source": {"columns": columns},
        "preprocess": {
            "split": {"test": 0.2, "valid": 0.2},
            "workflow": {"freq_threshold": 2, "target_encoding": ["page"], "counts": ["user"]},
        },
        "train": {"epochs": 1, "batch_size": 64, "threads": 1},
    }
    return Params({"cluster": {"workers": 1}, "ranking": {**tree, **more}})


def write(path, rows, names, separator=","):
    """CSV, or by the name's ending JSON lines or Parquet; packed where that says so."""
    if path.suffix == ".parquet":
        types = {"order": pl.Int64, "price": pl.Float64}
        frame = pl.DataFrame(rows).with_columns(pl.col(names).replace("", None)).select(names)
        frame.cast({name: types[name] for name in types if name in names}).write_parquet(path)
        return path
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="") as file:
        if ".jsonl" in path.suffixes:
            file.writelines(json.dumps({n: row[n] for n in names}) + "\n" for row in rows)
        else:
            writer = csv.writer(file, delimiter=separator)
            writer.writerows([names, *([row[name] for name in names] for row in rows)])
    return path


def bundle_of(folder, made, name):
    known = settings_class(name).model_fields
    small = {key: value for key, value in SMALL.items() if key in known}
    if name == "ensemble":
        member = {"embedding_dim": 4, "deep_mlp": [8]}
        small = {"members": [{"model": "deepfm", "settings": member}, {"model": "fm"}]}
    params = settings(model=name, **{name: small})
    train("ranking", made / "features", folder / "model", params)
    export("ranking", made / "features", folder / "model", folder / "bundle", params)
    return folder / "bundle"


def judged(folder, made):
    """The probabilities that evaluation pools, of the test split."""
    schema = read_schema(made / "features")
    model, _ = load_model(folder / "model", schema, made / "features")
    pooled = model.metrics()
    with torch.inference_mode():
        for batch in Batches(made / "features" / "test", schema, 33, shuffle=False):
            pooled.update(model.predict(batch), batch)
    return pooled.pooled()[1]


@pytest.mark.parametrize("name", MODELS)
def test_what_is_scored_is_what_evaluation_judges(made, tmp_path, name):
    folder, rows = made
    rng = random.Random(name)
    bundle = bundle_of(tmp_path, folder, name)
    expected = {int(row["order"]): p for row, p in zip(rows[VALID:], judged(tmp_path, folder),
                                                       strict=True)}  # fmt: skip
    for kind in rng.sample(["a.csv", "b.csv.gz", "c.jsonl", "d.parquet", "e.tsv"], 2):
        asked = rng.sample(rows[VALID:], len(rows) - VALID)
        names = rng.sample(["order", "user", "page", "price", *rng.sample(["note", "click"], 1)], 5)
        log = write(tmp_path / kind, asked, names, "\t" if "tsv" in kind else rng.choice(",;|"))
        scores = score(bundle, log, tmp_path / "scores.parquet", id_columns=["order"])
        assert scores["order"].dtype == (pl.Int64 if "parquet" in kind else pl.String)
        lines = [int(row["order"]) for row in asked]
        first = 2 if ".csv" in kind or "tsv" in kind else 1
        assert scores["line"].to_list() == list(range(first, first + len(asked)))
        assert [int(order) for order in scores["order"]] == lines
        probabilities = [expected[order] for order in lines]
        np.testing.assert_allclose(scores["probability"], probabilities, rtol=1e-6, atol=1e-9)
    assert len({round(p, 9) for p in expected.values()}) > 10


@pytest.fixture(scope="module")
def bundle(made, tmp_path_factory):
    return bundle_of(tmp_path_factory.mktemp("bundle"), made[0], "fm")


def test_scores_find_their_lines_whatever_is_bad_between_them(made, bundle, tmp_path, capsys):
    """A dozen folders of several files with bad lines at random places."""
    rng = random.Random(1)
    whole = {row["order"]: row for row in made[1][VALID:]}
    path = write(tmp_path / "whole.csv", list(whole.values()), NAMES)
    scores = score(bundle, path, tmp_path / "whole.parquet", id_columns=["order"])
    expected = dict(scores.select("order", "probability").iter_rows())
    for trial in range(12):
        place = {}
        (tmp_path / f"log {trial}").mkdir()
        for name in ("a.csv", "b.csv")[: rng.randrange(1, 3)]:
            part = write(tmp_path / f"log {trial}" / name, rng.sample([*whole.values()], 15), NAMES)
            header, *lines = part.read_text().splitlines()
            for _ in range(rng.randrange(1, 6)):
                bad = rng.choice(("", "one,field", "x" * 9 + ",1,01,,no number,0,0"))
                lines.insert(rng.randrange(len(lines) + 1), bad)
            part.write_text("\n".join([header, *lines]) + "\n")
            for number, line in enumerate(lines, 2):
                if line[:5] in whole:
                    place[str(part), number] = line[:5]
        files = {file for file, _ in place}
        given = [bundle, tmp_path / f"log {trial}", tmp_path / "scores.csv", 0.5]
        scores = score(*given, id_columns=["order"])
        if len(files) == 1:
            scores = scores.select(pl.lit(min(files)).alias("file"), pl.all())
        assert scores.columns == ["file", "line", "order", "probability"]
        assert {(f, line): order for f, line, order, _ in scores.iter_rows()} == place
        for *_, order, probability in scores.iter_rows():
            assert probability == pytest.approx(expected[order], rel=1e-6)
    assert "left out:" in capsys.readouterr().out


def test_types_are_those_of_the_log_that_trained(made, bundle, tmp_path):
    """'05' stays a text where all values of a day are such; a text among integers is a bad line."""
    rows = [row for row in made[1][VALID:] if row["page"]]
    for form in ("a.csv", "a.jsonl"):
        log = write(tmp_path / form, rows, NAMES)
        expected = dict(score(bundle, log, tmp_path / "s.csv", id_columns=["order"])
                        .select("order", "probability").iter_rows())  # fmt: skip
        for row in rows[:4]:
            log = write(tmp_path / f"one{form}", [row], NAMES)
            [probability] = score(bundle, log, tmp_path / "s.csv")["probability"]
            assert probability == pytest.approx(expected[row["order"]], rel=1e-6)
        log = write(tmp_path / f"text{form}", [{**rows[0], "user": "ann"}, *rows[1:]], NAMES)
        scores = score(bundle, log, tmp_path / "s.csv", id_columns=["order"])
        assert scores["order"].to_list() == [row["order"] for row in rows[1:]]


def test_an_id_column_may_be_any_column_of_the_log(made, bundle, tmp_path, capsys):
    rows = [{**row, "note": row["note"] * 2 + "\nmore"} for row in made[1]]
    log = write(tmp_path / "log.csv", rows[VALID:], NAMES)
    scores = score(bundle, log, tmp_path / "s.csv", id_columns=["note", "price", "user", "click"])
    assert scores.columns == ["line", "note", "price", "user", "click", "probability"]
    for name in ("note", "price", "user", "click"):
        assert scores[name].fill_null("").to_list() == [row[name] for row in rows[VALID:]]
    assert scores["line"].to_list() == list(range(2, 2 * (ROWS - VALID) + 1, 2))
    rows = made[1]
    named = [{**row, "line": "l", "probability": "p", "file": "f"} for row in rows[VALID:]]
    log = write(tmp_path / "named.csv", named, ["line", "probability", "file", *NAMES])
    scores = score(bundle, log, tmp_path / "s.csv", id_columns=["line", "probability"])
    assert scores.columns == ["line_", "line", "probability", "probability_"]
    (tmp_path / "mixed").mkdir()
    write(tmp_path / "mixed" / "1.parquet", rows[VALID:350], NAMES)
    write(tmp_path / "mixed" / "2.csv", rows[350:], NAMES)
    scores = score(bundle, tmp_path / "mixed", tmp_path / "s.csv", id_columns=["order"])
    assert scores["order"].to_list() == [
        *map(str, range(VALID, 350)), *(row["order"] for row in rows[350:])
    ]  # fmt: skip
    given = ["score", "--bundle", str(bundle), "--input", str(log), "--output"]
    output = str(tmp_path / "s.csv")
    assert main([*given, output, "--id-column", "order", "--id-column", "file"]) == 0
    assert pl.read_csv(output).columns == ["line", "order", "file", "probability"]
    assert main([*given, output, "--id-column", "order_no"]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "no column 'order_no' (setting --id-column)" in message
    with pytest.raises(UserError, match="--id-column: 'order' is named twice"):
        score(bundle, log, output, id_columns=["order", "order"])


def test_only_columns_that_the_model_reads_are_needed(made, tmp_path):
    folder, rows = made
    more = settings().tree["ranking"]["source"]["columns"]
    read = {"columns": {**more, "categorical": ["user", "page", "note"]}}
    workflow = {"categorical": ["user", "page"], "freq_threshold": 2}
    params = settings(source=read, preprocess={"workflow": workflow}, model="fm")
    ingest("ranking", params.section("ranking.source"), folder / "log.csv", tmp_path / "raw")
    preprocess("ranking", tmp_path / "raw", tmp_path / "features", params)
    train("ranking", tmp_path / "features", tmp_path / "model", params)
    export("ranking", tmp_path / "features", tmp_path / "model", tmp_path / "bundle", params)
    log = write(tmp_path / "log.csv", rows[VALID:], ["user", "page", "price"])
    assert len(score(tmp_path / "bundle", log, tmp_path / "s.csv")) == ROWS - VALID
