"""A model of one table and one linear layer, its splits, and short trainings of it."""

from pathlib import Path

import torch
from torch import nn

from core.settings import Settings
from tests.training import click_log
from training.batches import Batches
from training.embeddings import SparseEmbedding
from training.engine import EngineSettings, Monitor, fit, seed_all
from training.metrics.binary import BinaryAccumulator

SCHEMA = click_log.schema()
TRAIN_ROWS, VALID_ROWS, BATCH = 640, 300, 32
STEPS = TRAIN_ROWS // BATCH


def write_splits(folder: Path) -> Path:
    """``train`` and ``valid`` of one small log."""
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
