import csv
import os
import signal

import pytest
import torch
from torch import nn

from core.errors import UserError
from core.settings import Settings
from tests.training import click_log
from training import checkpoints, optimizers, ranking
from training.batches import Batches
from training.embeddings import SparseEmbedding
from training.engine import EngineSettings, Monitor, evaluate, fit, seed_all
from training.metrics.binary import BinaryAccumulator, binary_metrics

SCHEMA = click_log.schema()
TRAIN_ROWS, VALID_ROWS, BATCH = 640, 300, 32
STEPS = TRAIN_ROWS // BATCH


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    click_log.write(folder / "train", TRAIN_ROWS, seed=1)
    click_log.write(folder / "valid", VALID_ROWS, seed=2)
    return folder


class NoSettings(Settings):
    pass


class Small(nn.Module):
    """One table, dropout, one linear layer: the least that exercises the loop."""

    settings = NoSettings()
    monitor = Monitor("logloss", "min")

    def __init__(self, sparse=True):
        super().__init__()
        seed_all(5)
        self.table = SparseEmbedding(20, 3) if sparse else nn.Embedding(20, 3)
        self.dropout = nn.Dropout(0.3)
        self.linear = nn.Linear(5, 1)
        self.steps = 0
        self.at_step = lambda step: None

    def forward(self, inputs):
        dense = torch.stack([inputs["I1"], inputs["I2"]], 1)
        row = self.dropout(torch.cat([dense, self.table(inputs["C1"])], 1))
        return self.linear(row).squeeze(1)

    def loss(self, batch):
        self.steps += 1
        self.at_step(self.steps)
        return nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    def predict(self, batch):
        return self(batch[0])

    def metrics(self):
        return BinaryAccumulator()


def settings(**changes):
    base = {"epochs": 2, "batch_size": BATCH, "validate_every_steps": 7, "patience": None}
    return EngineSettings(**{**base, "checkpoint_every_steps": 3, **changes})


def train(splits, folder, model=None, resume=True, **changes):
    chosen = settings(**changes)
    model = model or Small()
    batches = Batches(splits / "train", SCHEMA, BATCH, seed=chosen.seed, chunk_rows=100)
    valid = Batches(splits / "valid", SCHEMA, 128, shuffle=False)
    return model, fit(model, batches, valid, chosen, folder, resume=resume)


def same_weights(a, b):
    one, two = a.state_dict(), b.state_dict()
    return list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


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
    resumed, result = train(splits, tmp_path / "killed", optimizer=optimizer)
    last = (killed_at - 1) // 3 * 3
    assert f"resuming at step {last} of {2 * STEPS}" in capsys.readouterr().out
    assert resumed.steps == 2 * STEPS - last
    assert same_weights(undisturbed, resumed)
    assert result.history == expected.history and result.best_step == expected.best_step
    for name in ("history.csv", "model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_merlin_s_dlrm_resumes_bit_for_bit(splits, tmp_path):
    def dlrm():
        net = {"embedding_dim": 4, "bottom_mlp": [8], "top_mlp": [8, 4], "dropout": 0.2}
        return ranking.build("dlrm", SCHEMA, ranking.dlrm.DLRMSettings(**net), seed=3)

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


def test_ctrl_c_leaves_a_checkpoint_and_the_next_run_goes_on(splits, tmp_path, capsys):
    undisturbed, _ = train(splits, tmp_path / "whole", epochs=1)
    model = Small()
    model.at_step = lambda step: step == 8 and os.kill(os.getpid(), signal.SIGINT)
    handler = signal.getsignal(signal.SIGINT)
    options = {"epochs": 1, "checkpoint_every_steps": None}
    with pytest.raises(KeyboardInterrupt):
        train(splits, tmp_path / "stopped", model, **options)
    assert signal.getsignal(signal.SIGINT) is handler
    assert "interrupted after step 8" in capsys.readouterr().out
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


def test_a_loss_that_is_not_finite_stops_the_run(splits, tmp_path):
    model = Small()
    model.at_step = lambda step: step == 6 and model.linear.bias.data.fill_(float("inf"))
    with pytest.raises(UserError, match=r"step 6: the loss is (nan|inf).*diverged"):
        train(splits, tmp_path, model)
    assert (tmp_path / "checkpoints" / "step-000000003.safetensors").is_file()


def test_an_input_that_is_not_finite_is_named(tmp_path):
    table = click_log.table(64, seed=1)
    numbers = table["I2"].to_numpy().copy()
    numbers[40] = float("nan")
    (tmp_path / "train").mkdir()
    import pyarrow.parquet as pq

    pq.write_table(table.set_column(2, "I2", [numbers]), tmp_path / "train" / "part-0.parquet")
    batches = Batches(tmp_path / "train", SCHEMA, 16, shuffle=False)
    with pytest.raises(UserError, match="step 3: the loss is nan: I2 hold NaN"):
        fit(Small(), batches, None, settings(), tmp_path / "model")


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


LOOPS = [
    {"optimizer": "adam", "learning_rate": 0.02, "weight_decay": 0.1},
    {"optimizer": "adamw", "weight_decay": 0.1, "table_optimizer": "sgd"},
    {"optimizer": "adagrad", "table_learning_rate": 0.3, "table_weight_decay": 0.05},
    {"optimizer": "sgd", "learning_rate": 0.5, "gradient_clip": 0.05},
    {"optimizer": "sgd", "warmup_steps": 10, "decay": "linear"},
    {"optimizer": "sgd", "warmup_steps": 10, "decay": "cosine"},
]


# Sparse Adam moves only the rows of a batch, which is not what dense Adam does: the first is dense.
@pytest.mark.parametrize(
    ("changes", "sparse"), [*((c, False) for c in LOOPS), *((c, True) for c in LOOPS[1:])]
)
def test_against_a_hand_written_loop(splits, tmp_path, changes, sparse):
    chosen = settings(epochs=1, **changes)
    batches = Batches(splits / "train", SCHEMA, BATCH, seed=0, chunk_rows=100)
    model = Small(sparse)
    model.dropout.p = 0.0
    fit(model, batches, None, chosen, tmp_path)

    plain = Small(sparse=False)
    plain.dropout.p = 0.0
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    kinds |= {"adagrad": torch.optim.Adagrad, "sgd": torch.optim.SGD}
    table = kinds[chosen.table_optimizer or chosen.optimizer]([plain.table.weight], 1.0)
    dense = kinds[chosen.optimizer](
        plain.linear.parameters(), 1.0, weight_decay=chosen.weight_decay
    )
    batches.set_position(0)
    for step, batch in enumerate(batches):
        factor = {"constant": 1.0, "linear": 1 - (step - 10) / 10}.get(chosen.decay)
        if factor is None:
            factor = (1 + torch.cos(torch.tensor(torch.pi * (step - 10) / 10)).item()) / 2
        if chosen.warmup_steps and step < 10:
            factor = (step + 1) / 10
        dense.param_groups[0]["lr"] = chosen.learning_rate * factor
        rate = chosen.table_learning_rate or chosen.learning_rate
        table.param_groups[0]["lr"] = rate * factor
        plain.zero_grad()
        plain.loss(batch).backward()
        used = batch[0]["C1"].unique().long()
        plain.table.weight.grad[used] += (
            chosen.table_weight_decay * plain.table.weight.detach()[used]
        )
        if chosen.gradient_clip:
            nn.utils.clip_grad_norm_(plain.parameters(), chosen.gradient_clip)
        dense.step()
        table.step()
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=1e-4, atol=1e-6)


def test_bf16_trains_and_keeps_weights_in_fp32(splits, tmp_path):
    model, result = train(splits, tmp_path / "bf16", epochs=1, precision="bf16")
    _, exact = train(splits, tmp_path / "fp32", epochs=1)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert result.metrics != exact.metrics
    assert result.metrics["logloss"] == pytest.approx(exact.metrics["logloss"], abs=0.01)


def test_tables_and_dense_layers_are_told_apart():
    model = Small()
    made = optimizers.make_optimizers(model, settings(table_optimizer="adam"))
    assert [type(o).__name__ for o in made] == ["Adagrad", "SparseAdam"]
    assert optimizers.table_parameters(model) == [model.table.weight]


def test_validate_every_is_a_fraction_or_steps():
    assert EngineSettings(validate_every=0.25).steps_between_validations(10) == 2
    assert EngineSettings(validate_every=2).steps_between_validations(10) == 20
    assert EngineSettings(validate_every=0.01).steps_between_validations(10) == 1
    assert EngineSettings(validate_every_steps=3).steps_between_validations(10) == 3
