"""Labels in the forms in which logs have them, and what is said of those that are not 0 or 1."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from core.errors import UserError
from core.settings import validate
from pipeline.ingest.clicks import ClickSourceSettings

FORMS = {1: ["1", "1.0", " 1", "true", "True", "TRUE", "t", "yes", "Y", "1e0"],
         0: ["0", "0.0", "false", "False", "f", "No", "n", "NO", "-0"]}  # fmt: skip
PAIRS = [
    (2, 1),
    (1, -1),
    ("click", "no click"),
    ("Ja", "Nein"),
    (1, "none"),
    ("a'b", '"'),
    (7, 7.5),
]
COLUMNS = {"labels": ["click"], "categorical": ["user"]}


def write_log(folder, kind, labels, name="log"):
    """A log of these labels as CSV, JSON lines or Parquet."""
    rows = [{"user": n % 9, "click": label} for n, label in enumerate(labels)]
    path = folder / f"{name}.{kind}"
    if kind == "parquet":
        same = len({type(label) for label in labels if label is not None}) == 1
        texts = labels if same else [None if v is None else str(v) for v in labels]
        pq.write_table(pa.table({"user": [r["user"] for r in rows], "click": texts}), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, ["user", "click"])
            writer.writeheader()
            writer.writerows(rows)
    return path


def labels_of(result):
    return result.table["click"].to_pylist()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("seed", range(5))
def test_every_usual_form_of_a_label_is_read(run, tmp_path, kind, seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, 200).tolist()
    written = [FORMS[label][rng.integers(len(FORMS[label]))] for label in truth]
    if seed == 0:
        written = [bool(label) for label in truth]
    if seed == 1:
        written = [float(label) for label in truth]
    result = run("ranking", write_log(tmp_path, kind, written), columns=COLUMNS, max_bad_fraction=0)
    assert labels_of(result) == truth


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("pair", PAIRS)
def test_labels_of_ones_own_are_mapped(run, tmp_path, kind, pair):
    rng = np.random.default_rng(len(str(pair)))
    truth = rng.integers(0, 2, 150).tolist()
    log = write_log(tmp_path, kind, [pair[1 - label] for label in truth])
    for negative in ([pair[1]], None):
        mapped = {"click": {"positive": [pair[0]], "negative": negative}}
        result = run("ranking", log, columns=COLUMNS, label_values=mapped, max_bad_fraction=0)
        assert labels_of(result) == truth
    strange = write_log(tmp_path, kind, [pair[0], pair[1], "strange", pair[1]], "strange")
    if kind != "parquet":
        mapped = {"click": {"positive": [pair[0]], "negative": [pair[1]]}}
        result = run("ranking", strange, columns=COLUMNS, label_values=mapped)
        assert labels_of(result) == [1, 0, 0] and len(result.bad) == 1


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("seed", range(4))
def test_numbers_from_a_threshold_on_are_clicks(run, tmp_path, kind, seed):
    rng = np.random.default_rng(seed)
    ratings = (
        (rng.integers(1, 11, 300) / 2).tolist() if seed % 2 else rng.normal(3, 1, 300).tolist()
    )
    least = [4, 3.5, 2, 0.5][seed]
    log = write_log(tmp_path, kind, ratings)
    result = run("ranking", log, columns=COLUMNS, label_thresholds={"click": least})
    assert labels_of(result) == [int(rating >= least) for rating in ratings]


def with_comma(number):
    return f"{number:,.4f}".translate(str.maketrans(",.", ".,"))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("thousands", ["", "."])
@pytest.mark.parametrize("seed", range(3))
def test_labels_follow_the_decimal_comma(run, tmp_path, kind, thousands, seed):
    rng = np.random.default_rng(seed)
    marks = {"decimal": ",", "thousands": thousands, "columns": COLUMNS, "max_bad_fraction": 0}
    written = with_comma if thousands else lambda number: with_comma(number).replace(".", "")
    numbers = np.round(rng.normal(0, 2000, 200), 4).tolist()
    log = write_log(tmp_path, kind, [written(number) for number in numbers])
    least = numbers[0]
    result = run("ranking", log, label_thresholds={"click": least}, **marks)
    assert labels_of(result) == [int(number >= least) for number in numbers]

    truth = rng.integers(0, 2, 100).tolist()
    mapped = {"positive": [["4,5", 4.5, "clicked"][seed]], "negative": [1.25]}
    texts = ["clicked" if label and seed == 2 else ["1,25", "4,5"][label] for label in truth]
    result = run(
        "ranking", write_log(tmp_path, kind, texts), label_values={"click": mapped}, **marks
    )
    assert labels_of(result) == truth
    texts = [
        ["0,0", "1,0"][label] if n % 3 else ["no", "yes"][label] for n, label in enumerate(truth)
    ]
    assert labels_of(run("ranking", write_log(tmp_path, kind, texts), **marks)) == truth


def test_a_decimal_comma_of_labels_is_named(run, tmp_path):
    log = write_log(tmp_path, "csv", ["1,5", "4,0", "3,5"] * 100)
    with pytest.raises(UserError, match=r'label_thresholds: \{click: 3.5\} and .*decimal: ","'):
        run("ranking", log, columns=COLUMNS)
    with pytest.raises(UserError, match=r"settings label_thresholds, decimal\): '1,5'") as failed:
        run("ranking", log, columns=COLUMNS, label_thresholds={"click": 4})
    assert "max_bad_fraction to leave" not in str(failed.value)  # no line would be left


def pasted(message):
    """The setting that a message gives, as settings."""
    setting = message[message.index("ranking.source.") :].split("ranking.source.")[1].rstrip(".")
    name, _, value = setting.partition(": ")
    return {name: YAML(typ="safe").load(value)}


@pytest.mark.parametrize("pair", [*PAIRS[:5], (5, 3), (0.9, 0.25), ("viewed", "not viewed")])
@pytest.mark.parametrize("share", [0.5, 0.004])
def test_a_class_is_never_left_out_and_the_setting_is_given(run, tmp_path, pair, share):
    rng = np.random.default_rng(1)
    truth = (rng.random(1500) < share).astype(int).tolist()
    log = write_log(tmp_path, "csv", [pair[1 - label] for label in truth])
    with pytest.raises(UserError) as failed:
        run("ranking", log, columns=COLUMNS, max_bad_fraction=0.01)
    assert "raise max_bad_fraction" not in str(failed.value)
    result = run("ranking", log, columns=COLUMNS, max_bad_fraction=0, **pasted(str(failed.value)))
    if share == 0.5 and pair != ("Ja", "Nein"):
        assert labels_of(result) == truth


def test_lines_that_are_bad_for_many_reasons_may_be_left_out(run, tmp_path):
    labels = ["1", "0"] * 100 + [f"strange {n}" for n in range(5)]
    log = write_log(tmp_path, "csv", labels)
    assert len(labels_of(run("ranking", log, columns=COLUMNS, max_bad_fraction=0.1))) == 200
    text = "user,price,click\n" + "1,NA,0\n1,2,1\n" * 50
    (tmp_path / "na.csv").write_text(text)
    columns = {**COLUMNS, "continuous": ["price"]}
    with pytest.raises(UserError, match=r"'NA' there.*add it to null_values"):
        run("ranking", tmp_path / "na.csv", columns=columns, max_bad_fraction=0.01)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"label_values": {"buy": {"positive": [1]}}}, "label_values.buy: no such label"),
        ({"label_thresholds": {"buy": 1}}, "label_thresholds.buy: no such label"),
        ({"label_values": {"click": {"positive": [1], "negative": ["1.0"]}}}, "both positive and"),
        ({"label_values": {"click": {"positive": []}}}, "positive"),
        (
            {"label_values": {"click": {"positive": [2]}}, "label_thresholds": {"click": 2}},
            "not both",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(tree, message):
    with pytest.raises(UserError, match=message):
        validate(ClickSourceSettings, {"columns": COLUMNS, **tree}, "test")
