"""``split.valid: 0``: all rows before the test part train, and training ends when it is told to."""

import csv
import json

import numpy as np
import pytest

from core.errors import UserError
from pipeline.grow import grow
from pipeline.params import Params
from pipeline.preprocess_ranking import RankingPreprocessSettings, preprocess_ranking
from pipeline.splits import DAY, SplitSettings, row_ranges
from pipeline.stages.evaluate import evaluate
from pipeline.stages.generate import generate
from pipeline.stages.ingest import ingest
from pipeline.stages.inspect import inspect
from pipeline.stages.preprocess import preprocess
from pipeline.stages.train import train
from pipeline.time_cuts import start_bounds, time_bounds
from tests.pipeline.grown import take_shards
from tests.pipeline.test_preprocess_ranking import write_raw

STEPS = 12
GIVEN = {
    "ranking": [
        "ranking.generate.rows=3000",
        "ranking.generate.days=3",
        "ranking.dlrm.top_mlp=[8]",
    ],
    "sessions": [
        "sessions.generate.sessions=300",
        "sessions.generate.items=60",
        "sessions.generate.users=90",
        "sessions.xlnet.d_model=16",
    ],
}
UNIT = {"ranking": "rows", "sessions": "sessions"}


def params(recipe, *more):
    own = [f"{recipe}.preprocess.split.valid=0", f"{recipe}.train.max_steps={STEPS}"]
    return Params.read([], [*GIVEN[recipe], *own, *more])


@pytest.fixture(scope="module", params=["ranking", "sessions"])
def features(request, tmp_path_factory):
    recipe = request.param
    folder, given = tmp_path_factory.mktemp(recipe), params(recipe)
    generate(recipe, given.section(f"{recipe}.generate"), folder / "generated")
    source = given.section(f"{recipe}.source")
    ingest(recipe, source, folder / "generated" / "log", folder / "raw")
    preprocess(recipe, folder / "raw", folder / "features", given)
    return recipe, folder


def test_all_but_the_test_part_trains_to_the_last_step(features, tmp_path):
    recipe, folder = features
    splits = json.loads((folder / "features" / "manifest.json").read_text())["splits"]
    rows = {name: split[UNIT[recipe]] for name, split in splits.items()}
    everything = 3000 if recipe == "ranking" else 300
    assert rows["valid"] == 0 and rows["train"] == pytest.approx(0.8 * everything, abs=2)
    record = train(recipe, folder / "features", tmp_path / "model", params(recipe))
    assert record["rows"] == rows["train"]
    assert record["learned"] == {
        "steps": STEPS,
        "best_step": STEPS,
        "stopped": "finished",
        "planned_steps": STEPS,
        "still_improving": False,
        "valid": {},
    }
    with open(tmp_path / "model" / "history.csv") as file:
        (row,) = csv.DictReader(file)
    assert int(row["step"]) == STEPS and float(row["train_loss"]) > 0
    found = evaluate(
        recipe,
        folder / "features",
        tmp_path / "model",
        tmp_path / "metrics.json",
        tmp_path / "plots",
        params(recipe),
    )
    assert found["rows"] == rows["test"] == everything - rows["train"]


def test_what_needs_validation_says_so(features, tmp_path):
    recipe, folder = features
    plateau = params(recipe, f"{recipe}.train.decay=plateau", f"{recipe}.train.patience=9")
    with pytest.raises(UserError, match=r"decay: plateau.*no validation split"):
        train(recipe, folder / "features", tmp_path / "plateau", plateau)
    train(recipe, folder / "features", tmp_path / "model", params(recipe))
    with pytest.raises(UserError, match=r"valid split has no rows; raise preprocess.split.valid"):
        model, out, plots = (tmp_path / name for name in ("model", "out", "plots"))
        evaluate(recipe, folder / "features", model, out, plots, params(recipe), split="valid")


def test_the_data_report_takes_features_without_validation(features, tmp_path):
    recipe, folder = features
    inspect(recipe, folder / "raw", folder / "features", tmp_path / "data.json", tmp_path / "plots")
    assert (tmp_path / "plots" / "index.html").stat().st_size > 1000


@pytest.mark.parametrize("kind", ["last_day_halves", "leave_one_out"])
def test_a_kind_that_always_validates_refuses_it(kind):
    with pytest.raises(ValueError, match=f"valid 0 is not for kind '{kind}'"):
        SplitSettings(kind=kind, valid=0)


def test_rows_that_would_have_validated_train():
    for kind, testing in (("fraction", 0), ("days", 1), ("files", 1)):
        ranges = row_ranges(
            SplitSettings(kind=kind, test=0.25, valid=0), np.array([60, 40]), testing
        )
        start = 75 if kind == "fraction" else 60
        assert ranges == {"train": (0, start), "valid": (start, start), "test": (start, 100)}
    rows = row_ranges(SplitSettings(test=0, valid=0), np.array([60, 40]), 0)
    assert rows == {"train": (0, 100), "valid": (100, 100), "test": (100, 100)}


@pytest.mark.parametrize("kind", ["fraction", "days", "window"])
def test_sessions_that_would_have_validated_train(kind):
    rng = np.random.default_rng(2)
    starts = rng.integers(0, 5 * DAY, 200) + 1_600_000_000_000 // DAY * DAY
    split = SplitSettings(kind=kind, valid=0)
    bounds = time_bounds(split, starts)
    before = starts[starts < bounds["test_start"]]
    assert len(before) > 100 and (before < bounds["valid_start"]).all()
    assert bounds["valid_start"] <= bounds["test_start"]
    if kind != "window":
        assert start_bounds(split, starts) == (bounds["valid_start"], bounds["test_start"])


def test_features_without_validation_grow(tmp_path):
    raw = write_raw(tmp_path / "raw", days=3)
    old, new = take_shards(raw, tmp_path / "old", [0, 1]), take_shards(raw, tmp_path / "new", [2])
    settings = RankingPreprocessSettings(split=SplitSettings(test=0.25, valid=0), rows_per_part=300)
    preprocess_ranking(old, tmp_path / "features", settings)
    whole = grow("ranking", new, tmp_path / "features")
    assert whole["ranges"] == {"train": (0, 900), "valid": (900, 900), "test": (900, 1200)}
    assert [whole["splits"][name]["rows"] for name in ("train", "valid", "test")] == [900, 0, 300]


def test_a_log_of_which_all_trains_grows(tmp_path):
    raw = write_raw(tmp_path / "raw", days=2)
    old, new = take_shards(raw, tmp_path / "old", [0]), take_shards(raw, tmp_path / "new", [1])
    split = SplitSettings(test=0, valid=0)
    preprocess_ranking(old, tmp_path / "features", RankingPreprocessSettings(split=split))
    whole = grow("ranking", new, tmp_path / "features")
    assert whole["splits"]["train"]["rows"] == 800 and whole["splits"]["test"]["rows"] == 0
