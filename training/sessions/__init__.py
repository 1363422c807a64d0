"""Session models by name: each one file and one settings class, with a common interface.

Importing this package is cheap: a model's own file (and with it torch) is imported when the model
is asked for.
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.settings import Settings, validate
from training.sessions import settings

if TYPE_CHECKING:
    from core.merlin import Schema
    from training.sessions.base import SessionModel

MODELS: dict[str, tuple[str, str, type[Settings]]] = {
    "xlnet": ("training.sessions.xlnet", "XLNet", settings.XLNetSettings),
    "popular": ("training.sessions.popular", "Popular", settings.PopularSettings),
}
"""Name → module, model class, settings class."""

ENGINE_DEFAULTS: dict[str, Any] = {
    "epochs": 8,
    "batch_size": 64,
    "valid_batch_size": 1024,
    "optimizer": "adamw",
    "learning_rate": 2e-3,
    "weight_decay": 0.01,
    "table_learning_rate": 1e-2,
    "warmup_steps": 150,
    "decay": "linear",
    "gradient_clip": 5.0,
    "validate_every": 1.0,
    "patience": 2,
}
"""What session models start from, over the defaults of :class:`EngineSettings`: many small steps,
since every step of each session is a target, and embeddings that move faster than the rest."""


def settings_class(name: str) -> type[Settings]:
    """The settings class of the model ``name``; an unknown name is a UserError."""
    return _find(name)[2]


def build(
    name: str, schema: "Schema", model_settings: Settings | Mapping[str, Any] | None = None
) -> "SessionModel":
    """A fresh model for features of ``schema``.

    Args:
        name: one of :data:`MODELS`.
        schema: of the feature Parquet, with one column tagged ITEM_ID.
        model_settings: the model's settings, or a mapping of them; defaults if not given.

    Raises:
        UserError: unknown name or setting, or features that the model cannot be built for.
    """
    module, model, wanted = _find(name)
    if not isinstance(model_settings, Settings):
        model_settings = validate(wanted, model_settings or {}, f"sessions.{name}")
    if not isinstance(model_settings, wanted):
        raise UserError(f"sessions.model {name}: its settings are {wanted.__name__}")
    return getattr(importlib.import_module(module), model)(schema, model_settings)


def _find(name: str) -> tuple[str, str, type[Settings]]:
    if name not in MODELS:
        raise UserError(f"sessions.model: unknown model '{name}'; known: {', '.join(MODELS)}")
    return MODELS[name]
