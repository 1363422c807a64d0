"""Several processes on one machine, started by torchrun as a user starts them."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from core.errors import UserError
from core.tensors import read_tensors
from tests.training import click_log, distributed_worker
from tests.training.session_examples import random_sessions, write_sessions
from training.batches import Batches
from training.checkpoints import load_weights
from training.evaluation import pooled_metrics

TOLERANCE = 1e-5
RUNS = {
    "planned": {},
    "table_wise": {"sharding": "table_wise", "tables": "fused", "optimizer": "sgd"},
    "row_wise": {
        "sharding": "row_wise",
        "optimizer": "adam",
        "gradient_clip": 0.3,
        "table_weight_decay": 0.01,
        "patience": 4,
    },
    "column_wise": {"sharding": "column_wise", "tables": "plain", "decay": "plateau"},
    "per_row": {"table_optimizer": "rowwise_adagrad", "weight_decay": 0.01, "warmup_steps": 5},
}
SESSIONS = {"optimizer": "adamw", "gradient_clip": 5.0, "learning_rate": 2e-3}
ALL_RUNS = {name: ("ranking", settings) for name, settings in RUNS.items()}
ALL_RUNS["xlnet"] = ("sessions", SESSIONS)
ALL_RUNS["lists_and_two_labels"] = ("richer", {"sharding": "row_wise"})
ALL_RUNS["linear_rate"] = ("linear", {"optimizer": "adam", "linear_learning_rate": 0.1})
ALL_RUNS["out_of_core"] = ("richer", {"tables_out_of_core": True, "sharding": "table_wise"})
STOPPED = {"sharding": "row_wise", "optimizer": "adam"}


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Splits whose last batch has a row or two: fewer than there are processes."""
    folder = tmp_path_factory.mktemp("features")
    click_log.write(folder / "ranking" / "train", 10 * distributed_worker.BATCH + 1, seed=1)
    click_log.write(folder / "ranking" / "valid", 2 * distributed_worker.VALID_BATCH + 2, seed=2)
    (folder / "linear").symlink_to(folder / "ranking")
    for split, count in (("train", 161), ("valid", 66)):
        folder_of_split = folder / "richer" / split
        click_log.write(folder_of_split, count, seed=count, make=click_log.richer_table)
    for split, count in (("train", 3 * distributed_worker.BATCH + 1), ("valid", 66)):
        (folder / "sessions" / split).mkdir(parents=True)
        write_sessions(folder / "sessions" / split, random_sessions(count, seed=count))
    return folder


def run(features, folder, family="ranking", disturb=None, **settings):
    found = {"family": family, "features": str(features / family), "folder": str(folder)}
    return {**found, "settings": settings, **({"disturb": disturb} if disturb else {})}


def torchrun(count, *arguments, timeout=120):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=timeout)


def several(count, *runs, **options):
    return torchrun(count, "-m", "tests.training.distributed_worker", json.dumps(runs), **options)


def alone(described):
    distributed_worker.main([described])
    return found_in(described["folder"])


def found_in(folder):
    with open(os.path.join(folder, "found.json"), encoding="utf-8") as file:
        return json.load(file)


def check_same(one, other, folders):
    assert one["best_step"] == other["best_step"]
    assert len(one["history"]) == len(other["history"]) >= 3
    for row, same in zip(one["history"], other["history"], strict=True):
        assert same == pytest.approx(row, abs=TOLERANCE)
    weights, others = (read_tensors(f / "model.safetensors")[0] for f in folders)
    assert {n: t.shape for n, t in weights.items()} == {n: t.shape for n, t in others.items()}
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def trained(features, tmp_path_factory):
    """A folder of trainings: by four processes, stopped; by two, all of RUNS and the rest of it.

    Few launches: a process takes longer to start than all of its trainings do.
    """
    folder = tmp_path_factory.mktemp("trained")
    stopped = {"step": 7, "rank": 2, "how": "SIGTERM"}
    four = several(4, run(features, folder / "four", disturb=stopped, **STOPPED))
    shutil.copytree(folder / "four", folder / "two")
    refused = {"sharding": "column_wise", "table_optimizer": "rowwise_adagrad"}
    with_nan = {"step": 6, "rank": 1, "how": "nan"}
    two = several(
        2,
        *(run(features, folder / f"2-{n}", f, **s) for n, (f, s) in ALL_RUNS.items()),
        run(features, folder / "two", **{**STOPPED, "sharding": "column_wise"}),
        {**run(features, folder / "normalised"), "family": "normalised"},
        {**run(features, folder / "refused", **refused), "refused": True},
        {**run(features, folder / "nan", disturb=with_nan), "refused": True},
    )
    assert two.returncode == 0, two.stderr[-3000:]
    return folder, four, two


@pytest.mark.parametrize("name", ALL_RUNS)
def test_two_processes_give_the_curve_and_the_weights_of_one(features, trained, name):
    folder, _, _ = trained
    family, settings = ALL_RUNS[name]
    one = alone(run(features, folder / f"1-{name}", family, **settings))
    check_same(one, found_in(folder / f"2-{name}"), (folder / f"1-{name}", folder / f"2-{name}"))


def test_with_batch_normalisation_all_processes_judge_what_is_saved(features, trained):
    folder = trained[0] / "normalised"
    model, schema, columns = distributed_worker.model_and_schema("normalised")
    load_weights(folder / "model.safetensors", model)
    rows = distributed_worker.VALID_BATCH
    valid = Batches(features / "ranking" / "valid", schema, rows, columns, shuffle=False)
    judged = pooled_metrics(model, valid, "fp32", lambda: None)
    found = found_in(folder)
    (best,) = [row for row in found["history"] if row["step"] == found["best_step"]]
    assert judged["logloss"] == pytest.approx(best["valid_logloss"], abs=1e-6)


def test_what_four_wrote_goes_on_in_one_and_two(features, trained):
    folder, four, two = trained
    assert four.returncode != 0 and "interrupted after step 7" in four.stderr
    assert "resuming at step 7" in two.stdout
    undisturbed = alone(run(features, folder / "whole", **STOPPED))
    resumed = alone(run(features, folder / "four", **STOPPED))
    check_same(undisturbed, resumed, (folder / "whole", folder / "four"))
    check_same(undisturbed, found_in(folder / "two"), (folder / "whole", folder / "two"))


def test_a_killed_process_ends_the_others_and_the_run_goes_on(features, tmp_path):
    killed = {"step": 6, "rank": 1, "how": "SIGKILL"}
    done = several(2, run(features, tmp_path / "run", disturb=killed), timeout=60)
    assert done.returncode != 0
    undisturbed = alone(run(features, tmp_path / "whole"))
    resumed = alone(run(features, tmp_path / "run"))
    check_same(undisturbed, resumed, (tmp_path / "whole", tmp_path / "run"))


def test_an_error_in_one_process_is_shown_once(features, tmp_path):
    disturb = {"step": 6, "rank": 1, "how": "fail"}
    done = several(2, run(features, tmp_path, disturb=disturb), timeout=60)
    assert done.returncode != 0
    assert done.stderr.count("error:") == 1 and "No space left" in done.stderr


def test_a_nan_in_one_process_is_named_by_all(trained):
    folder, _, _ = trained
    assert found_in(folder / "nan")["error"].startswith("step 6: the loss is nan: I2 hold NaN")


def test_the_command_line_shows_an_error_once(tmp_path):
    done = torchrun(2, "-m", "pipeline", "train", "ranking", "--input", str(tmp_path))
    assert done.returncode != 0
    assert (done.stdout + done.stderr).count("no manifest.json there") == 1


def test_what_does_not_go_together_is_refused(features, trained):
    folder, _, _ = trained
    assert "train.sharding: column_wise" in found_in(folder / "refused")["error"]
    with pytest.raises(UserError, match=r"batch_size 3.* processes, 2"):
        distributed_worker.Batches(
            features / "ranking" / "train", click_log.schema(), 3, rank=0, world_size=2
        )
