"""Session models by name: each one file and one settings class, with a common interface.

Importing this package is cheap: a model's own file (and with it torch) is imported when the model
is asked for.
"""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.settings import Settings, validate
from training.sessions import counting_settings, neural_settings, transformer_settings

if TYPE_CHECKING:
    from core.merlin import Schema
    from training.sessions.base import SessionModel

MODELS: dict[str, tuple[str, str, type[Settings]]] = {
    "xlnet": ("training.sessions.xlnet", "XLNet", transformer_settings.XLNetSettings),
    "bert4rec": ("training.sessions.bert4rec", "BERT4Rec", transformer_settings.BERT4RecSettings),
    "gpt2": ("training.sessions.gpt2", "GPT2", transformer_settings.GPT2Settings),
    "electra": ("training.sessions.electra", "Electra", transformer_settings.ElectraSettings),
    "albert": ("training.sessions.albert", "Albert", transformer_settings.AlbertSettings),
    "sasrec": ("training.sessions.sasrec", "SASRec", neural_settings.SASRecSettings),
    "gru4rec": ("training.sessions.gru4rec", "GRU4Rec", neural_settings.GRU4RecSettings),
    "core": ("training.sessions.core", "CORE", neural_settings.CORESettings),
    "popular": ("training.sessions.popular", "Popular", counting_settings.PopularSettings),
    "recently_popular": (
        "training.sessions.recently_popular",
        "RecentlyPopular",
        counting_settings.RecentlyPopularSettings,
    ),
    "session_popular": (
        "training.sessions.session_popular",
        "SessionPopular",
        counting_settings.SessionPopularSettings,
    ),
    "item_knn": ("training.sessions.item_knn", "ItemKNN", counting_settings.ItemKNNSettings),
    "vsknn": ("training.sessions.vsknn", "VSkNN", counting_settings.VSkNNSettings),
    "association_rules": (
        "training.sessions.rules",
        "AssociationRules",
        counting_settings.AssociationRulesSettings,
    ),
    "sequential_rules": (
        "training.sessions.rules",
        "SequentialRules",
        counting_settings.SequentialRulesSettings,
    ),
}
"""Name → module, model class, settings class."""

ENGINE_DEFAULTS: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 64,
    "valid_batch_size": 1024,
    "optimizer": "adamw",
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "table_learning_rate": 2e-2,
    "warmup_steps": 50,
    "decay": "linear",
    "gradient_clip": 5.0,
    "validate_every": 1.0,
    "patience": 2,
    "seed": 42,
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
    wanted = settings_class(name)
    if not isinstance(model_settings, Settings):
        model_settings = validate(wanted, model_settings or {}, f"sessions.{name}")
    if not isinstance(model_settings, wanted):
        raise UserError(f"sessions.model {name}: its settings are {wanted.__name__}")
    return model_class(name)(schema, model_settings)


def model_class(name: str) -> type["SessionModel"]:
    """The class of the model ``name``; an unknown name is a UserError."""
    module, model, _ = _find(name)
    return getattr(importlib.import_module(module), model)


def _find(name: str) -> tuple[str, str, type[Settings]]:
    if name not in MODELS:
        raise UserError(f"sessions.model: unknown model '{name}'; known: {', '.join(MODELS)}")
    return MODELS[name]
