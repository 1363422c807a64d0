"""Scores of raw lines from a bundle alone, against the features and the definition."""

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.__main__ import main
from pipeline.scoring import Bundle, score
from tests.pipeline import grown as compare
from workflows.ranking import CATEGORICAL, DENSE

ROWS, TRAIN, VALID = 900, 576, 720
SMOOTHING = 5.0
SETTINGS = """
ranking:
  preprocess:
    split: {test: 0.2, valid: 0.2}
    rows_per_part: 150
    workflow:
      freq_threshold: 2
      num_buckets: 2
      columns: {I3: {missing: median, scale: none}, C5: {freq_threshold: 4}}
      target_encoding: [C1, C2]
      target_crosses: [[C1, I2]]
      target_smoothing: 5.0
      counts: [C2]
  train: {epochs: 1, batch_size: 128}
"""


def write_log(path, seed=0):
    """A click log of two files' rows as text: blanks, values never seen before in its tail."""
    rng = np.random.default_rng(seed)
    lines = []
    for row in range(ROWS):
        dense = ["" if rng.random() < 0.2 else str(rng.geometric(0.1)) for _ in DENSE]
        values = rng.zipf(1.5, len(CATEGORICAL)) % 60 + (row > VALID) * 7
        codes = ["" if rng.random() < 0.1 else f"{value:08x}" for value in values]
        lines.append("\t".join([str(rng.integers(0, 2)), *dense, *codes]))
    path.write_text("\n".join(lines) + "\n")
    return lines


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with features, a model and a bundle, and the lines of its log."""
    folder = tmp_path_factory.mktemp("scoring")
    lines = write_log(folder / "log.txt")
    (folder / "tail.txt").write_text("\n".join([*lines[VALID:], "no line of such a log"]) + "\n")
    (folder / "params.yaml").write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["ingest", "ranking", "--input", "log.txt"]) == 0
        for stage in ("preprocess", "train", "export"):
            assert main([stage, "ranking"]) == 0
    return folder, lines


def test_target_encodings_are_log_odds_of_the_training_rows(project):
    folder, lines = project
    cells = [line.split("\t") for line in lines]
    training = [(int(row[0]), row) for row in cells[:TRAIN]]
    mean = sum(label for label, _ in training) / TRAIN

    def log_odds(p):
        return np.log(p / (1 - p)) - np.log(mean / (1 - mean))

    found = compare.read(folder / "data/ranking/features", "test")

    def level(text):
        number = int(text or -1)
        return int(np.log(number) ** 2) + 2 if number > 2 else number

    first = 1 + len(DENSE)
    keys = {
        "C1": lambda row: row[first],
        "C2": lambda row: row[first + 1],
        "C1_X_I2": lambda row: (row[first], level(row[2])),
    }
    for name, key in keys.items():
        expected = []
        for row in cells[VALID:]:
            same = [label for label, other in training if key(other) == key(row)]
            expected.append(log_odds((sum(same) + SMOOTHING * mean) / (len(same) + SMOOTHING)))
        np.testing.assert_allclose(found[f"TE_{name}_label"], expected, atol=1e-6)


def test_scores_are_those_of_the_features_and_bad_lines_are_named_once(
    project, tmp_path, monkeypatch, capsys
):
    folder, _ = project
    monkeypatch.chdir(folder)
    output = tmp_path / "scores.parquet"
    limit = ["--input", "tail.txt", "--output", str(output)]
    assert main(["score", *limit]) == 0
    printed = capsys.readouterr().out
    bad, _, summary = " ".join(printed.split()).rpartition(" score: ")
    where = f"tail.txt:{ROWS - VALID + 1}: expected 40 tab-separated fields, found 1"
    assert bad.startswith(f"score: not read and left out: 1 line: {where}")
    assert printed.count("tail.txt:") == 1
    assert summary == f"{ROWS - VALID:,} rows, 1 quarantined → {output}"
    written = pl.read_parquet(output)
    assert written["line"].to_list() == list(range(1, ROWS - VALID + 1))
    scores = written["probability"]
    features = compare.read(folder / "data/ranking/features", "test")
    model = Bundle("data/ranking/bundle").model
    columns = {name: features[name].to_numpy().copy() for name in model.input_names}
    inputs = {name: torch.from_numpy(column) for name, column in columns.items()}
    assert {"TE_C1_label", "C2_count"} <= set(inputs)
    with torch.inference_mode():
        expected = torch.sigmoid(model(inputs).double()).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-9)
    assert len(set(scores)) > 100


def test_lines_of_a_criteo_log_are_those_of_its_files(project, tmp_path, monkeypatch):
    """Of text and of Parquet, with bad lines between."""
    folder, lines = project
    monkeypatch.chdir(folder)
    names = ["label", *DENSE, *CATEGORICAL]
    asked = [line.split("\t") for line in lines[VALID:]]
    asked[3][1], asked[70][-1], asked[71][-1] = "x", "not hex", "not hex"
    log = tmp_path / "log"
    log.mkdir()
    (log / "1.txt").write_text("\n".join("\t".join(line) for line in asked[:40]) + "\n")
    pl.DataFrame(asked[40:], names, orient="row").with_columns(
        pl.col(names).replace("", None)
    ).write_parquet(log / "2.parquet")
    scores = score("data/ranking/bundle", log, tmp_path / "s.csv", 0.1)
    expected = [(str(log / "1.txt"), n) for n in range(1, 41) if n != 4]
    expected += [
        (str(log / "2.parquet"), n) for n in range(1, len(asked) - 39) if n not in (31, 32)
    ]
    assert list(scores.select("file", "line").iter_rows()) == expected
    whole = score("data/ranking/bundle", "tail.txt", tmp_path / "s.csv", 0.1)
    kept = [n for n in range(len(asked)) if n not in (3, 70, 71)]
    np.testing.assert_allclose(scores["probability"], whole["probability"].to_numpy()[kept])


def test_more_bad_lines_than_usual_are_let_through_on_request(
    project, tmp_path, monkeypatch, capsys
):
    folder, lines = project
    monkeypatch.chdir(folder)
    log = tmp_path / "log.txt"
    log.write_text("\n".join([*lines[VALID : VALID + 97], *["no line of such a log"] * 3]) + "\n")
    given = ["--input", str(log), "--output", str(tmp_path / "scores.csv")]
    assert main(["score", *given]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "3 of 100 lines are bad (3.0%; max_bad_fraction allows 1.0%)" in message
    # A bundle has settings, but who scores has none to change.
    assert message.endswith("or raise --max-bad-fraction to leave these lines out.")
    assert "log.txt:98: expected 40" in message and "ranking.source" not in message
    assert main(["score", *given, "--max-bad-fraction", "0.05"]) == 0
    assert "score: 97 rows, 3 quarantined" in capsys.readouterr().out
    assert main(["score", *given, "--max-bad-fraction", "-1"]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "ranking.source: max_bad_fraction: input should be greater than or equal to 0" in message
