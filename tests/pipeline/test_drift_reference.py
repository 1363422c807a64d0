"""Drift where nothing drifts: whatever the days' sizes, and where there is nothing to compare."""

import csv

import numpy as np
import pytest

from core.artifacts import read_json
from pipeline.__main__ import main
from pipeline.data_report.columns import Scan, drift


def test_a_psi_of_equal_days_is_what_chance_gives():
    """200 logs of one distribution, of days of 1,000 to 60,000 rows and one small first day."""
    shares = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        bins = int(rng.integers(2, 25))
        weights = rng.dirichlet(np.ones(bins) * 3)
        rows = [
            int(rng.integers(1, 300)),
            *rng.integers(1_000, 60_000, rng.integers(2, 6)).tolist(),
        ]
        binned = np.array([rng.multinomial(count, weights) for count in rows])
        scan = Scan(binned, binned[:-1].sum(axis=0), np.zeros(len(rows)), np.array(rows))
        values, chance = drift(scan, 1_000)
        assert values[0] is None and None not in values[1:]
        assert max(values[1:]) < 0.1
        shares += [psi / by_chance for psi, by_chance in zip(values[1:], chance[1:], strict=True)]
    assert 0.3 < np.mean(shares) < 1.3  # days are among the training rows: less than of two draws


def write_log(folder, sizes):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for day, size in enumerate(sizes):
        with open(folder / f"day{day}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["clicked", "page", "price"])
            clicks, pages = rng.integers(0, 2, size), rng.integers(0, 30, size)
            prices = rng.normal(size=size).round(3)
            writer.writerows(zip(clicks, pages, prices, strict=True))


SETTINGS = (
    "ranking: {source: {columns: {labels: [clicked], categorical: [page], continuous: [price]}}}"
)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((30, 1500, 1500, 1500), "are left out: day0.csv"),
        ((3000,), "nothing to compare"),
        ((300, 300, 300), "nothing to compare"),
    ],
)
def test_the_report_of_a_log_that_does_not_drift(sizes, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "log", sizes)
    (tmp_path / "params.yaml").write_text(SETTINGS)
    assert main(["ingest", "ranking", "--input", "log"]) == 0
    assert main(["preprocess", "ranking"]) == 0
    assert main(["inspect", "ranking"]) == 0
    printed = capsys.readouterr().out
    assert words in printed
    report = read_json("metrics/ranking-data.json")
    points = read_json("plots/ranking-data/drift.json")
    if "nothing" in words:
        assert "most_psi" not in report and points == [] and "0.000" not in printed
        assert "largest PSI" not in printed and "stable" not in printed  # no figure to explain
    else:
        assert "largest PSI" in printed and "below 0.1 stable" in printed
        assert report["most_psi"]["value"] < 0.1
        assert {point["day"] for point in points} == {"day1.csv", "day2.csv", "day3.csv"}
