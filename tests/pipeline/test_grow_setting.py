"""``preprocess.grow``: the log's folder gets a new file, and the same commands are run again."""

import csv
import random

import pytest

from core.artifacts import read_json
from pipeline.__main__ import main

DAY = 86_400
FIRST = 1_600_041_600 // DAY * DAY
PARAMS = """
ranking:
  source:
    path: logs
    columns: {labels: [clicked], categorical: [user, item], continuous: [price]}
  preprocess: {grow: true}
sessions:
  source:
    path: logs
    columns: {session_id: session, item_id: item, timestamp: time, price: price,
      category: null, brand: null, user_id: null}
  preprocess: {grow: true}
"""


def write_day(folder, day, seed=0):
    """A day of 60 sessions; each day has ten items that no other day has."""
    rng = random.Random(f"{day} {seed}")
    rows = []
    for session in range(60):
        start = FIRST + day * DAY + rng.randrange(DAY - 1000)
        for step in range(rng.randrange(2, 6)):
            price = "" if rng.random() < 0.2 else round(rng.random() * 10, 2)
            item, user = f"item{day * 10 + rng.randrange(20)}", f"u{rng.randrange(9)}"
            rows.append((f"s{day}.{session}", item, start + step, user, rng.randrange(2), price))
    with open(folder / f"day{day}.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["session", "item", "time", "user", "clicked", "price"])
        writer.writerows(sorted(rows, key=lambda row: row[2]))


@pytest.fixture(params=["ranking", "sessions"])
def project(request, tmp_path, monkeypatch):
    """A folder with settings, a log of four days and their features; gives the recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "logs").mkdir()
    for day in range(4):
        write_day(tmp_path / "logs", day)
    refit(request.param)
    return request.param


def refit(recipe, *more):
    assert main(["ingest", recipe]) == 0
    return main(["preprocess", recipe, *more])


def described(recipe):
    return read_json(f"data/{recipe}/features/manifest.json")


def test_a_new_file_grows_the_features_and_the_report_reads_them(project, tmp_path, capsys):
    before = described(project)
    write_day(tmp_path / "logs", 4)
    assert refit(project) == 0
    after, printed = described(project), capsys.readouterr().out
    assert len(after["fits"]) == 2
    name = "item" if project == "ranking" else "item_id"
    assert after["cardinality"][name] > before["cardinality"][name]
    assert "train;" in printed and "are held out by the split" in printed
    assert main(["inspect", project]) == 0
    report = read_json(f"metrics/{project}-data.json")
    assert report["days"] == 5 and all(day["rows"] for day in report["by_day"])
    # Another call, with nothing new, changes nothing.
    assert main(["preprocess", project]) == 0
    assert described(project) == after


def test_features_are_made_anew_where_settings_or_old_files_changed(project, tmp_path, capsys):
    write_day(tmp_path / "logs", 4)
    assert refit(project) == 0
    threshold = "freq_threshold" if project == "ranking" else "item_freq_threshold"
    other = f"{project}.preprocess.workflow.{threshold}=3"
    assert main(["preprocess", project, "--set", other]) == 0
    assert f"as their settings were others: workflow.{threshold}" in capsys.readouterr().out
    assert "fits" not in described(project)
    write_day(tmp_path / "logs", 1, seed=1)
    assert refit(project, "--set", other) == 0
    assert "day1.csv has other rows than before" in capsys.readouterr().out


def test_another_log_in_the_place_of_the_first_is_no_growth(project, tmp_path, capsys):
    for path in (tmp_path / "logs").iterdir():
        path.unlink()
    for day in (7, 8):
        write_day(tmp_path / "logs", day)
    key = "freq_threshold" if project == "ranking" else "item_freq_threshold"
    assert refit(project, "--set", f"{project}.preprocess.workflow.{key}=2") == 0
    assert "making the features of all rows" in capsys.readouterr().out
    assert "fits" not in described(project)


def test_no_day_is_left_out_in_silence(project, tmp_path, capsys):
    write_day(tmp_path, 4)
    assert main(["ingest", project, "--input", "day4.csv", "--output", "raw4"]) == 0
    assert main(["preprocess", project, "--input", "raw4", "--grow"]) == 0
    whole = described(project)
    plain = ["preprocess", project, "--set", f"{project}.preprocess.grow=false"]
    assert main(plain) == 1
    printed = capsys.readouterr()
    assert "these features have grown" in printed.err and "day4.csv" in printed.err
    # With the setting, the raw log without that day leaves them as they are.
    assert main(["preprocess", project]) == 0
    assert described(project) == whole
    key = "freq_threshold" if project == "ranking" else "item_freq_threshold"
    assert main(["preprocess", project, "--set", f"{project}.preprocess.workflow.{key}=2"]) == 1
    assert "day4.csv are not there" in capsys.readouterr().err


def test_all_rows_train_for_production_and_new_days_at_once(project, tmp_path):
    splits = [f"{project}.preprocess.split.{name}=0" for name in ("test", "valid")]
    everything = [part for setting in splits for part in ("--set", setting)]
    model = "logistic_regression" if project == "ranking" else "popular"
    trained = ["--set", f"{project}.model={model}", "--set", f"{project}.train.epochs=1"]
    assert main(["preprocess", project, *everything]) == 0
    write_day(tmp_path / "logs", 4)
    assert refit(project, *everything) == 0
    unit = "rows" if project == "ranking" else "sessions"
    assert {of[unit] for name, of in described(project)["splits"].items() if name != "train"} == {0}
    name = "item" if project == "ranking" else "item_id"
    assert described(project)["splits"]["train"]["oov_rate"][name] < 0.1
    assert main(["train", project, *trained]) == 0
    assert main(["export", project, *trained]) == 0
