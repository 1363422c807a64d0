"""What ``train`` says last, and what ``model.json`` keeps of how a training ended."""

import json
import re

import numpy as np
import polars as pl
import pytest

from pipeline.__main__ import main
from training.progress import LEAST_GAIN, Progress
from training.trainable import Monitor

LOG = "ranking.source.columns={labels: [liked], categorical: [item], continuous: [price]}"


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clicks")
    rng = np.random.default_rng(0)
    item = rng.integers(0, 30, 2000)
    liked = (rng.random(2000) < 0.1 + 0.6 * (item % 2)).astype(int)
    log = pl.DataFrame({"liked": liked, "item": item, "price": rng.normal(size=2000).round(2)})
    log.write_csv(folder / "log.csv")
    at = {"--input": str(folder / "log.csv"), "--output": str(folder / "raw")}
    run("ingest", at, LOG)
    run("preprocess", {"--input": at["--output"], "--output": str(folder / "features")}, LOG)
    return folder / "features"


def run(stage, options, *settings):
    given = [word for item in settings for word in ("--set", item)]
    words = [word for pair in options.items() for word in pair]
    assert main([stage, "ranking", *words, *given]) == 0


def trained(features, output, capsys, *settings):
    """The last line of ``train``, and what its model.json says was learned."""
    capsys.readouterr()
    model = "ranking.model=logistic_regression"
    train = [f"ranking.train.{setting}" for setting in settings]
    run("train", {"--input": str(features), "--output": str(output)}, LOG, model, *train)
    learned = json.loads((output / "model.json").read_text())["learned"]
    return capsys.readouterr().out.strip().splitlines()[-1], learned


def test_a_run_that_still_improves_says_so(features, tmp_path, capsys):
    slow = ["learning_rate=0.01", "optimizer=adam", "epochs=2", "validate_every=0.5"]
    line, learned = trained(features, tmp_path / "slow", capsys, *slow)
    assert learned["still_improving"] and learned["best_step"] == learned["steps"]
    hint = "still improving at its last step: more epochs may help (ranking.train.epochs, now 2)"
    assert hint in line
    line, learned = trained(features, tmp_path / "steps", capsys, *slow, "max_steps=9")
    assert learned["still_improving"] and learned["steps"] == learned["planned_steps"] == 9
    assert "more steps may help (ranking.train.max_steps, now 9)" in line


def test_an_early_stop_says_so(features, tmp_path, capsys):
    line, learned = trained(
        features, tmp_path, capsys, "learning_rate=0.5", "epochs=40", "patience=2"
    )
    assert learned["stopped"] == "patience" and not learned["still_improving"]
    numbers = re.search(r"stopped early at step (\d+) of (\d+): no better for 2 valid", line)
    assert list(map(int, numbers.groups())) == [learned["steps"], learned["planned_steps"]]
    assert f"best on the validation split at step {learned['best_step']}: " in line
    assert "still improving" not in line


def test_one_validation_is_neither_improving_nor_an_early_stop(features, tmp_path, capsys):
    line, learned = trained(features, tmp_path, capsys, "epochs=1", "validate_every=1")
    assert not learned["still_improving"] and learned["stopped"] == "finished"
    assert "still improving" not in line and "stopped early" not in line
    assert re.search(r"step \d+: auc 0\.\d{4}, logloss 0\.\d{4} → ", line)  # the main metrics


@pytest.mark.parametrize("mode", ["min", "max"])
def test_improving_is_the_best_value_at_the_end_by_more_than_chance(mode):
    """Random histories against the definition."""
    rng, monitor = np.random.default_rng(1), Monitor("metric", mode)
    seen = set()
    for _ in range(400):
        progress = Progress()
        values = (0.5 + rng.normal(0, 0.01, rng.integers(1, 6))).round(3)
        every = int(rng.integers(1, 4))  # Validations in an epoch.
        for value in values:
            progress.step += 1
            progress.add_row(progress.step / every, {"valid_metric": float(value)})
            progress.judge({"metric": float(value)}, monitor)
        scores = (1 if mode == "max" else -1) * values
        best_is_last = len(scores) > 1 and scores[-1] > max(scores[:-1])
        before = max(scores[: max(1, len(scores) - every)])
        expected = best_is_last and scores[-1] - before > LEAST_GAIN[mode] * abs(before)
        assert progress.still_improving(monitor) == expected
        seen.add(bool(expected))
    assert seen == {True, False}
