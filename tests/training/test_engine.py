import csv
import os
import signal

import pytest
import torch

from core.artifacts import temporary_path
from core.errors import UserError
from tests.training import click_log
from tests.training.small_model import (
    BATCH,
    SCHEMA,
    STEPS,
    VALID_ROWS,
    Small,
    same_weights,
    settings,
    train,
    write_splits,
)
from training import checkpoints, optimizers, ranking
from training.batches import Batches
from training.engine import EngineSettings, Monitor, evaluate, fit
from training.metrics.binary import binary_metrics
from training.ranking.dlrm import DLRMSettings


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return write_splits(tmp_path_factory.mktemp("features"))


class Killed(Exception):
    pass


def kill_at(step):
    def at_step(current):
        if current == step:
            raise Killed

    return at_step


def test_a_run_learns_and_leaves_its_files(splits, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = evaluate(Small(), Batches(splits / "valid", SCHEMA, 100, shuffle=False))
    model, result = train(splits, tmp_path / "model", epochs=6, learning_rate=0.1)
    assert result.stopped == "finished" and result.steps == 6 * STEPS and result.epochs == 6
    assert result.metrics["logloss"] < before["logloss"] - 0.05
    with open(tmp_path / "model" / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [*range(7, 6 * STEPS, 7), 6 * STEPS]
    assert list(rows[0])[:3] == ["step", "epoch", "train_loss"] and "valid_auc" in rows[0]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    saved = Small()
    checkpoints.load_weights(tmp_path / "model" / "model.safetensors", saved)
    assert same_weights(saved, model)
    output = capfd.readouterr()
    assert output.out == "" and output.err == ""
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    assert len(list((tmp_path / "model" / "checkpoints").glob("step-*"))) == 2


def test_validation_is_pooled_and_the_best_weights_come_back(splits, tmp_path):
    # So high a rate that later weights are worse.
    model, result = train(splits, tmp_path, epochs=8, learning_rate=1.0, patience=3)
    values = {row["step"]: row["valid_logloss"] for row in result.history}
    best = min(values, key=values.get)
    assert result.best_step == best and result.metrics["logloss"] == values[best]
    assert result.stopped == "patience" and result.steps == best + 3 * 7 < 8 * STEPS
    inputs, labels = next(iter(Batches(splits / "valid", SCHEMA, VALID_ROWS, shuffle=False)))
    with torch.no_grad():
        probabilities = model.train(False)(inputs).double().sigmoid().numpy()
    whole = binary_metrics(labels.numpy(), probabilities)
    assert whole == pytest.approx(result.metrics, abs=1e-6)


def test_the_same_seed_gives_the_same_run(splits, tmp_path):
    (a, one), (b, two), (c, _) = (
        train(splits, tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert same_weights(a, b) and one.history == two.history
    assert not same_weights(a, c)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "adamw", "sgd"])
@pytest.mark.parametrize("killed_at", [12, 32])
def test_a_killed_run_resumes_bit_for_bit(splits, tmp_path, capsys, optimizer, killed_at):
    undisturbed, expected = train(splits, tmp_path / "whole", optimizer=optimizer)
    model = Small()
    model.at_step = kill_at(killed_at)
    with pytest.raises(Killed):
        train(splits, tmp_path / "killed", model, optimizer=optimizer)
    temporary_path(tmp_path / "killed" / "history.csv").touch()
    resumed, result = train(splits, tmp_path / "killed", optimizer=optimizer)
    assert not list((tmp_path / "killed").rglob("*.partial"))
    last = (killed_at - 1) // 3 * 3
    assert f"resuming at step {last} of {2 * STEPS}" in capsys.readouterr().out
    assert resumed.steps == 2 * STEPS - last
    assert same_weights(undisturbed, resumed)
    assert result.history == expected.history and result.best_step == expected.best_step
    assert list(result.metrics.items()) == list(expected.metrics.items())
    for name in ("history.csv", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_merlin_s_dlrm_resumes_bit_for_bit(splits, tmp_path):
    def dlrm():
        net = {"embedding_dim": 4, "bottom_mlp": [8], "top_mlp": [8, 4], "dropout": 0.2}
        return ranking.build("dlrm", SCHEMA, DLRMSettings(**net), seed=3)

    undisturbed, _ = train(splits, tmp_path / "whole", dlrm(), epochs=1)
    model = dlrm()
    loss, calls = model.loss, []

    def dies(batch):
        calls.append(1)
        if len(calls) == 11:
            raise Killed
        return loss(batch)

    model.loss = dies
    with pytest.raises(Killed):
        train(splits, tmp_path / "killed", model, epochs=1)
    resumed, _ = train(splits, tmp_path / "killed", dlrm(), epochs=1)
    assert same_weights(undisturbed, resumed)


@pytest.mark.parametrize("damage", ["cut off", "altered"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(splits, tmp_path, capsys, damage):
    undisturbed, _ = train(splits, tmp_path / "whole", epochs=1)
    model = Small()
    model.at_step = kill_at(14)
    with pytest.raises(Killed):
        train(splits, tmp_path / "killed", model, epochs=1)
    last = tmp_path / "killed" / "checkpoints" / "step-000000012.safetensors"
    content = bytearray(last.read_bytes())
    content[-3] ^= 1
    last.write_bytes(content if damage == "altered" else content[:-9])
    resumed, _ = train(splits, tmp_path / "killed", epochs=1)
    text = capsys.readouterr().out
    assert "trying the checkpoint before it" in text and "resuming at step 9" in text
    assert same_weights(undisturbed, resumed)


def test_ctrl_c_leaves_a_checkpoint_and_the_next_run_goes_on(splits, tmp_path):
    undisturbed, _ = train(splits, tmp_path / "whole", epochs=1)
    model = Small()
    model.at_step = lambda step: step == 8 and os.kill(os.getpid(), signal.SIGINT)
    handler = signal.getsignal(signal.SIGINT)
    options = {"epochs": 1, "checkpoint_every_steps": None}
    with pytest.raises(KeyboardInterrupt, match="interrupted after step 8"):
        train(splits, tmp_path / "stopped", model, **options)
    assert signal.getsignal(signal.SIGINT) is handler
    resumed, _ = train(splits, tmp_path / "stopped", **options)
    assert resumed.steps == STEPS - 8 and same_weights(undisturbed, resumed)


@pytest.mark.parametrize("last_step", [STEPS, 14])
def test_interrupted_in_the_last_step(splits, tmp_path, last_step):
    # Spoilt at step 8, the second validation, at step 14, is worse than the first.
    def spoil(model, step):
        if step == 8 and last_step == 14:
            model.linear.bias.data.fill_(50.0)

    options = {"epochs": 1, "patience": 1}
    model = Small()
    model.at_step = lambda step: spoil(model, step)
    undisturbed, result = train(splits, tmp_path / "whole", model, **options)
    assert result.steps == last_step

    def spoil_and_stop(step):
        spoil(model, step)
        if step == last_step:
            os.kill(os.getpid(), signal.SIGTERM)

    model = Small()
    model.at_step = spoil_and_stop
    with pytest.raises(KeyboardInterrupt):
        train(splits, tmp_path / "stopped", model, **options)
    resumed, again = train(splits, tmp_path / "stopped", **options)
    assert resumed.steps == 0 and again.history == result.history
    assert same_weights(undisturbed, resumed)


def test_other_settings_start_afresh_and_say_so(splits, tmp_path, capsys):
    train(splits, tmp_path, epochs=1)
    model, _ = train(splits, tmp_path, epochs=1, learning_rate=0.02)
    assert "learning_rate: 0.01, now 0.02" in capsys.readouterr().out
    assert model.steps == STEPS


def test_a_finished_run_is_not_repeated_unless_asked(splits, tmp_path):
    first, one = train(splits, tmp_path, epochs=1)
    # Settings that do not shape the result may differ.
    again, two = train(splits, tmp_path, epochs=1, keep_checkpoints=5)
    assert again.steps == 0 and same_weights(first, again)
    assert one.metrics == two.metrics and one.history == two.history
    afresh, _ = train(splits, tmp_path, epochs=1, resume=False)
    assert afresh.steps == STEPS


def test_an_undefined_metric_names_the_split(splits, tmp_path):
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = click_log.table(100, seed=1)
    (tmp_path / "valid").mkdir()
    pq.write_table(table.filter(pc.equal(table["label"], 0)), tmp_path / "valid" / "part-0.parquet")
    model = Small()
    model.monitor = Monitor("auc", "max")
    batches = Batches(splits / "train", SCHEMA, BATCH)
    with pytest.raises(UserError, match="auc is not defined on the validation split"):
        fit(model, batches, Batches(tmp_path / "valid", SCHEMA, 64), settings(), tmp_path / "model")


def test_without_a_validation_split_the_last_weights_stay(splits, tmp_path):
    batches = Batches(splits / "train", SCHEMA, BATCH)
    result = fit(Small(), batches, None, settings(max_steps=25), tmp_path)
    assert (result.steps, result.best_step, result.metrics) == (25, 25, {})
    assert [row["step"] for row in result.history] == [25]


def test_bf16_trains_and_keeps_weights_in_fp32(splits, tmp_path):
    model, result = train(splits, tmp_path / "bf16", epochs=1, precision="bf16")
    _, exact = train(splits, tmp_path / "fp32", epochs=1)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert result.metrics != exact.metrics
    assert result.metrics["logloss"] == pytest.approx(exact.metrics["logloss"], abs=0.01)


def test_tables_and_dense_layers_are_told_apart():
    model = Small()
    made = optimizers.make_optimizers(model, settings(table_optimizer="adam"), torch.device("cpu"))
    assert [type(o).__name__ for o in made] == ["Adagrad", "SparseAdam"]
    assert optimizers.table_parameters(model) == [model.table.weight]


def test_validate_every_is_a_fraction_or_steps():
    assert EngineSettings(validate_every=0.25).steps_between_validations(10) == 2
    assert EngineSettings(validate_every=2).steps_between_validations(10) == 20
    assert EngineSettings(validate_every=0.01).steps_between_validations(10) == 1
    assert EngineSettings(validate_every_steps=3).steps_between_validations(10) == 3
