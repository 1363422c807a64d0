"""Models of users and items, one a file; each has its settings class and a ``build`` function."""

import importlib
from typing import TYPE_CHECKING

from core.errors import UserError
from core.settings import Settings

if TYPE_CHECKING:
    from core.merlin import Schema
    from training.interactions.base import InteractionModel

MODELS: dict[str, str] = {
    "mf": "training.interactions.mf:MFSettings",
    "neumf": "training.interactions.neumf:NeuMFSettings",
    "mult_vae": "training.interactions.mult_vae:MultVAESettings",
}
"""``module:Class`` of the settings of what ``interactions.model`` can name."""

ENGINE_DEFAULTS = {
    "epochs": 20,
    "batch_size": 512,
    "valid_batch_size": 256,
    "optimizer": "adam",
    "learning_rate": 0.001,
    "table_learning_rate": 0.003,
    "validate_every": 1.0,
}
"""What the training of these models sets otherwise than the loop does."""


def build(
    name: str, schema: "Schema", settings: Settings, seed: int | None = None
) -> "InteractionModel":
    """The model ``name`` for the columns of ``schema``.

    Args:
        seed: of the initial weights; None: they come from torch's generator as it stands.

    Raises:
        UserError: an unknown name, or a user, item or rating column that the schema lacks.
    """
    if name not in MODELS:
        raise UserError(f"interactions.model: {name!r} is unknown; known: {', '.join(MODELS)}")
    if seed is not None:
        from training.engine import seed_all

        seed_all(seed)
    return importlib.import_module(MODELS[name].partition(":")[0]).build(schema, settings)


def settings_class(name: str) -> type[Settings]:
    """The settings class of the model ``name``."""
    module, _, attribute = MODELS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
