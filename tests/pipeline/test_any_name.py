"""Columns called as no one would expect: every stage of every recipe takes them as they are."""

import json
import random
import unicodedata

import pandas as pd
import polars as pl
import pytest
import torch
import yaml

from core.merlin import ColumnSchema, Schema, Tags, ops
from core.names import name_of
from core.tensors import TensorFile, read_tensors, write_tensors
from pipeline.__main__ import main
from training.checkpoints import load_weights, restore_model, save_weights
from training.ranking.objectives import Towers
from training.ranking.shared_bottom import SharedBottomSettings
from workflows.ops import CountEncoding
from workflows.state_files import StateFiles, column_files

NAMES = [
    *("type", "product.type", "forward", "items", "keys", "values", "to", "float", "user/id", ".."),
    *(".", "con", "x" * 300, "two\nlines", "100%", "Case", "case", "__class__", "a\\b", "*", "~"),
    *("^a.*$", "a~b", "['x']", "a=b", " lead", '"q"', "</script>", "{x}", "$\\frac$", "[/b]", "🦊"),
    *(unicodedata.normalize(form, "naïve") for form in ("NFC", "NFD")),
    *("fold", "target", "totals", "experts", "shortcut", "_modules", "0", "null", "row", "value"),
    *("weight", "\x1b[31m", "a,b", "%s", "a\tb", "item", "user", "day", "name", "index", "split"),
]


LABELS = ["has clicked", "größe"]


def letters(rng):
    return "".join(
        chr(rng.choice([rng.randrange(32, 127), rng.randrange(161, 0x2000)])) for _ in range(5)
    )


def chosen_names(seed, count):
    rng = random.Random(seed)
    return rng.sample(NAMES, count - 3) + [letters(rng) for _ in range(3)]


def columns(names, rows, seed):
    """Every third column numbers, the others texts and integers; some values are missing."""
    rng = random.Random(seed)

    def value(place):
        if rng.random() < 0.1:
            return None
        return (rng.random(), rng.choice("abc"), rng.randrange(5))[place % 3]

    return {name: [value(place) for _ in range(rows)] for place, name in enumerate(names)}


def commands(folder, recipe, data, settings, answer):
    folder.mkdir()
    log, file = str(folder / "log.parquet"), folder / "settings.yaml"
    pl.DataFrame(data).write_parquet(log)
    file.write_text(yaml.safe_dump({"device": "cpu", recipe: settings}))
    path = {name: str(folder / name) for name in ("raw", "features", "model", "bundle", "plots")}
    given = [recipe, "--settings", str(file)]
    features = ["--features", path["features"]]
    measured = ["--metrics", str(folder / "m.json"), "--plots", path["plots"]]
    described = ["--output", str(folder / "inspect.json"), "--plots", str(folder / "figures")]
    for words in (
        ["ingest", *given, "--input", log, "--output", path["raw"]],
        ["preprocess", *given, "--input", path["raw"], "--output", path["features"]],
        ["train", *given, "--input", path["features"], "--output", path["model"]],
        ["evaluate", *given, *features, "--model", path["model"], *measured],
        ["inspect", recipe, "--raw", path["raw"], *features, *described],
        ["export", *given, *features, "--model", path["model"], "--output", path["bundle"]],
        [answer, "--bundle", path["bundle"], "--input", log, "--output", str(folder / "out.csv")],
    ):
        assert main(words) == 0, words[0]
    return json.loads((folder / "inspect.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("seed", range(2))
def test_any_names_in_a_click_model(tmp_path, seed):
    names = chosen_names(seed, 18)
    numbers, codes = names[::3], [name for place, name in enumerate(names) if place % 3]
    label = letters(random.Random(seed + 50))
    data = {label: [row % 2 for row in range(200)], **columns(names, 200, seed)}
    workflow = {
        "labels": [label],
        "categorical": codes,
        "continuous": numbers,
        "freq_threshold": 1,
        "target_encoding": codes[:4],
        "target_crosses": [[codes[0], numbers[0]]],
        "counts": codes[2:6],
        "dense_levels": True,
        "missing_indicators": True,
        "columns": {numbers[1]: {"missing": "median", "bucketize": [0.2, 0.5]}},
        "crosses": [codes[:2]],
        "hashing": {codes[2]: 50},
    }
    read = {"labels": [label], "categorical": codes, "continuous": numbers}
    model = ["dlrm", "deepfm"][seed]
    tables = {"kind": "mixed", "threshold": 4} if seed == 0 else {}
    settings = {
        "model": model,
        model: {"tables": tables} if tables else {},
        "source": {"columns": read},
        "preprocess": {"workflow": workflow, "rows_per_part": 50},
        "train": {"epochs": 1, "batch_size": 64, "threads": 1},
    }
    report = commands(tmp_path / "run", "ranking", data, settings, "score")
    assert {entry["column"] for entry in report["columns"]} == {*codes, *numbers}


@pytest.mark.parametrize("model", ["mmoe", "ple"])
def test_any_names_in_a_model_of_several_labels(tmp_path, model):
    labels = chosen_names(model, 8)
    rng = random.Random(model)
    data = {label: [rng.randrange(2) for _ in range(200)] for label in labels}
    data |= {"a": [rng.choice("abc") for _ in range(200)], "b": [rng.random() for _ in range(200)]}
    read = {"labels": labels, "categorical": ["a"], "continuous": ["b"]}
    settings = {
        "model": model,
        model: {"tower_mlp": [4], "embedding_dim": 4},
        "source": {"columns": read},
        "preprocess": {"workflow": read},
        "train": {"epochs": 1, "batch_size": 64, "threads": 1},
    }
    commands(tmp_path / "run", "ranking", data, settings, "score")
    metrics = json.loads((tmp_path / "run" / "m.json").read_text(encoding="utf-8"))
    for label in labels[1:]:
        assert f"{label}_logloss" in metrics


@pytest.mark.parametrize("model", ["gru4rec", "popular"])
def test_any_names_in_a_session_model(tmp_path, model):
    names = chosen_names(model, 16)
    numbers, codes = names[::3], [name for place, name in enumerate(names) if place % 3]
    rng = random.Random(model)
    rows = [(n, rng.randrange(12), n * 5000 + k * 60) for n in range(80) for k in range(4)]
    data = dict(zip(("session_id", "item_id", "timestamp"), zip(*rows, strict=True), strict=True))
    data["timestamp"] = [1_600_000_000 + time for time in data["timestamp"]]
    sides = {"side_features": codes[:5] + numbers[:3], "item_features": codes[5:] + numbers[3:]}
    settings = {
        "model": model,
        model: {"d_model": 8, **sides} if model != "popular" else {},
        "source": {
            "columns": {name: name for name in ("session_id", "item_id", "timestamp")},
            "extra_categorical": codes,
            "extra_continuous": numbers,
        },
        "preprocess": {"workflow": {"categorical": codes, "continuous": numbers}},
        "train": {"epochs": 1, "batch_size": 32, "threads": 1},
    }
    data |= columns(names, len(rows), model)
    report = commands(tmp_path / "run", "sessions", data, settings, "recommend")
    assert {*names} <= {entry["column"] for entry in report["columns"]}


def test_weights_of_an_older_version_are_read(tmp_path):
    schema = Schema([ColumnSchema(name, tags=[Tags.BINARY_CLASSIFICATION]) for name in LABELS])
    towers = [Towers(schema, LABELS, SharedBottomSettings(tower_mlp=[])) for _ in range(2)]
    for tower in towers:
        tower(dict.fromkeys(LABELS, torch.zeros(2, 3)))
    save_weights(tmp_path / "now", towers[0])
    tensors, about = read_tensors(tmp_path / "now")
    old = {".".join(map(name_of, name.split("."))): tensor for name, tensor in tensors.items()}
    assert old.keys() != tensors.keys()
    write_tensors(tmp_path / "old", old, about)
    load_weights(tmp_path / "old", towers[1])
    for name, tensor in towers[1].state_dict().items():
        assert tensor.equal(tensors[name])

    old = {f"model.{name}": tensor + 1 for name, tensor in old.items()}
    write_tensors(tmp_path / "checkpoint", old, about)
    restore_model(towers[1], TensorFile(tmp_path / "checkpoint"))
    for name, tensor in towers[1].state_dict().items():
        assert tensor.equal(tensors[name] + 1)


def test_state_of_an_older_version_is_read(tmp_path):
    frame = pd.DataFrame({"user id": [3, 3, 5], "größe": [1, 2, 2]})
    operator, selector = CountEncoding(), ops.ColumnSelector(list(frame.columns))
    operator.fit_finalize(operator.fit(selector, frame).statistics)
    state = operator.save_state(tmp_path)
    for name, file in column_files("values", frame.columns).items():
        (tmp_path / file).rename(tmp_path / f"values.{name}.parquet")
    read = CountEncoding()
    read.load_state(StateFiles(tmp_path, state, "state", list(frame.columns)))
    assert read.transform(selector, frame).equals(operator.transform(selector, frame))
