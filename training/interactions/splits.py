"""What a model of users and items trains and is judged on, from a folder of features."""

from pathlib import Path

import torch

from core.merlin import Schema
from training.batches import Batches
from training.engine_settings import EngineSettings
from training.interactions.base import InteractionModel
from training.interactions.histories import Histories, UserBatches

BEFORE = {"valid": ("train",), "test": ("train", "valid")}
"""What is known of a user when a split is judged."""


def training_batches(
    model: InteractionModel, features: Path, schema: Schema, settings: EngineSettings
) -> Batches | UserBatches:
    """The training split as the model reads it: single ratings, or users with their items."""
    if not model.reads_users:
        size, seed = settings.batch_size, settings.seed
        names = model.input_names
        return Batches(features / "train", schema, size, columns=names, shuffle=True, seed=seed)
    train = Histories([features / "train"], schema, model.columns)
    return UserBatches(
        features / "train",
        schema,
        model.columns,
        train,
        None,
        settings.batch_size,
        shuffle=True,
        seed=settings.seed,
    )


def judged_batches(
    model: InteractionModel, features: Path, schema: Schema, split: str, size: int
) -> Batches | UserBatches:
    """A held-out split: users with what they chose before and in it, or single ratings.

    Args:
        size: users, or ratings, of a batch.

    Raises:
        UserError: no known user has a known item in it.
    """
    if not model.ranks_items:
        names = model.input_names
        return Batches(features / split, schema, size, columns=names, shuffle=False)
    before = Histories([features / name for name in BEFORE[split]], schema, model.columns)
    held_out = Histories([features / split], schema, model.columns)
    return UserBatches(features / split, schema, model.columns, before, held_out, size)


def popular_metrics(model: InteractionModel, judged: UserBatches) -> dict[str, float | None]:
    """What a model reaches that ranks by how many users chose an item, whoever asks.

    Args:
        judged: what ``model`` itself was judged on.
    """
    counts = torch.bincount(judged.train.items, minlength=model.num_items).float()
    metrics = model.metrics()
    judged.set_position(0)
    for batch in judged:
        users = len(batch[0][model.columns.user])
        metrics.update(model.without_history(counts.expand(users, -1), batch), batch)
    return metrics.compute()


def always_the_mean(
    model: InteractionModel, features: Path, schema: Schema, judged: Batches
) -> dict[str, float | None]:
    """What always the mean target of training reaches, on the ratings that ``model`` is judged on.

    Args:
        judged: what ``model`` itself was judged on.
    """
    total = rows = 0.0
    for _, targets in Batches(features / "train", schema, 1 << 16, columns=[], shuffle=False):
        total, rows = total + float(targets.double().sum()), rows + len(targets)
    mean = torch.tensor(total / rows, dtype=torch.float64)
    metrics = model.metrics()
    judged.set_position(0)
    for batch in judged:
        size = len(batch[1])
        metrics.update((mean if model.columns.explicit else mean.logit()).expand(size), batch)
    return metrics.compute()
