"""The engine against a loop written out by hand in plain torch, which shares nothing with it."""

import copy
import math

import pytest
import torch
from torch import nn

from core.errors import UserError
from tests.training.small_model import BATCH, SCHEMA, Small, settings, write_splits
from training.batches import Batches
from training.engine import EngineSettings, fit

KINDS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return write_splits(tmp_path_factory.mktemp("features"))


def batches(splits):
    train = Batches(splits / "train", SCHEMA, BATCH, seed=0, chunk_rows=100)
    return train, Batches(splits / "valid", SCHEMA, 300, shuffle=False)


def model(sparse):
    made = Small(sparse)
    made.dropout.p = 0.0
    return made


def by_hand(splits, chosen):
    """Trains with dense tables; gives the best weights, the steps made, and each validation."""
    train, valid = batches(splits)
    (whole,) = valid
    net = model(sparse=False)
    decay = {"weight_decay": chosen.weight_decay}
    dense = KINDS[chosen.optimizer](net.linear.parameters(), 1.0, **decay)
    table = KINDS[chosen.table_optimizer or chosen.optimizer]([net.table.weight], 1.0)
    total = chosen.epochs * len(train)
    best, best_weights, bad, since_drop, lowered = math.inf, None, 0, 0, 1.0
    step, curve = 0, []

    def validate():
        with torch.no_grad():
            return nn.functional.binary_cross_entropy_with_logits(net(whole[0]), whole[1]).item()

    for _ in range(chosen.epochs):
        for inputs, labels in train:
            warm = chosen.warmup_steps
            if step < warm:
                factor = (step + 1) / warm
            elif chosen.decay == "linear":
                factor = (total - step) / (total - warm)
            elif chosen.decay == "cosine":
                factor = (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2
            else:
                factor = 1.0
            dense.param_groups[0]["lr"] = chosen.learning_rate * factor * lowered
            rate = chosen.table_learning_rate or chosen.learning_rate
            table.param_groups[0]["lr"] = rate * factor * lowered
            net.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(net(inputs), labels).backward()
            used = inputs["C1"].unique().long()
            extra = chosen.table_weight_decay * net.table.weight.detach()[used]
            net.table.weight.grad[used] += extra
            if chosen.gradient_clip:
                nn.utils.clip_grad_norm_(net.parameters(), chosen.gradient_clip)
            dense.step()
            table.step()
            step += 1
            if step % chosen.validate_every_steps == 0 or step == total:
                curve.append((step, validate()))
                if curve[-1][1] < best:
                    best, best_weights = curve[-1][1], copy.deepcopy(net.state_dict())
                    bad = since_drop = 0
                else:
                    bad, since_drop = bad + 1, since_drop + 1
                    if chosen.decay == "plateau" and since_drop == chosen.plateau_patience:
                        lowered, since_drop = lowered * chosen.plateau_factor, 0
                if chosen.patience and bad == chosen.patience:
                    return best_weights, step, curve
    return best_weights, step, curve


LOOPS = [
    {"optimizer": "adam", "learning_rate": 0.02, "weight_decay": 0.1},
    {"optimizer": "adamw", "weight_decay": 0.1, "table_optimizer": "sgd"},
    {"optimizer": "adagrad", "table_learning_rate": 0.3, "table_weight_decay": 0.05},
    {"optimizer": "sgd", "learning_rate": 0.5, "gradient_clip": 0.05},
    {"optimizer": "sgd", "warmup_steps": 10, "decay": "linear"},
    {"optimizer": "sgd", "warmup_steps": 10, "decay": "cosine"},
    {"optimizer": "adagrad", "learning_rate": 1.5, "decay": "plateau", "plateau_factor": 0.2},
    {"optimizer": "adagrad", "learning_rate": 1.0, "epochs": 8, "patience": 3},
]


# Sparse Adam moves only the rows of a batch, which is not what dense Adam does: the first is dense.
@pytest.mark.parametrize(
    ("changes", "sparse"), [*((c, False) for c in LOOPS), *((c, True) for c in LOOPS[1:])]
)
def test_against_a_hand_written_loop(splits, tmp_path, changes, sparse):
    chosen = settings(**changes)
    weights, steps, curve = by_hand(splits, chosen)
    net = model(sparse)
    result = fit(net, *batches(splits), chosen, tmp_path)
    assert result.steps == steps
    assert [row["step"] for row in result.history] == [step for step, _ in curve]
    assert [row["valid_logloss"] for row in result.history] == pytest.approx(
        [value for _, value in curve], rel=1e-4
    )
    for name, weight in weights.items():
        torch.testing.assert_close(net.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    if "patience" in changes:
        assert result.stopped == "patience" and result.best_step < result.steps
    if chosen.decay == "plateau":
        without = by_hand(splits, chosen.model_copy(update={"decay": "constant"}))[2]
        assert without[-1] != curve[-1]  # the rates did fall


def test_plateau_resumes_where_it_was(splits, tmp_path):
    chosen = settings(learning_rate=1.5, decay="plateau", checkpoint_every_steps=1, epochs=1)
    whole, cut = model(True), model(True)
    fit(whole, *batches(splits), chosen, tmp_path / "whole")

    def dies(step):
        if step == 18:
            raise OSError

    cut.at_step = dies
    with pytest.raises(OSError):
        fit(cut, *batches(splits), chosen, tmp_path / "cut")
    again = model(True)
    fit(again, *batches(splits), chosen, tmp_path / "cut")
    assert again.steps == 3
    assert all(torch.equal(again.state_dict()[n], w) for n, w in whole.state_dict().items())


def test_plateau_needs_a_validation_split_and_time(splits, tmp_path):
    with pytest.raises(UserError, match=r"train\.decay: plateau .* no validation split"):
        fit(model(True), batches(splits)[0], None, settings(decay="plateau"), tmp_path)
    with pytest.raises(ValueError, match="set patience higher"):
        EngineSettings(decay="plateau", patience=2, plateau_patience=2)
