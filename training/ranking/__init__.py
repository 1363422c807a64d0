"""Click models, one a file: what each needs is its settings class and its ``build`` function."""

import importlib
from typing import TYPE_CHECKING, Any

from core.errors import UserError

if TYPE_CHECKING:
    from core.merlin import Schema
    from training.ranking.click_model import ClickModel
    from training.ranking.settings import ClickSettings

MODELS: dict[str, str] = {
    "dlrm": "training.ranking.dlrm:DLRMSettings",
    "logistic_regression": "training.ranking.logistic_regression:LogisticRegressionSettings",
    "fm": "training.ranking.fm:FMSettings",
    "wide_and_deep": "training.ranking.wide_and_deep:WideAndDeepSettings",
    "deepfm": "training.ranking.deepfm:DeepFMSettings",
    "dcn": "training.ranking.dcn:DCNSettings",
    "dcnv2": "training.ranking.dcnv2:DCNv2Settings",
    "afm": "training.ranking.afm:AFMSettings",
    "attention_dlrm": "training.ranking.attention_dlrm:AttentionDLRMSettings",
    "finalmlp": "training.ranking.finalmlp:FinalMLPSettings",
    "ensemble": "training.ranking.ensemble:EnsembleSettings",
    "shared_bottom": "training.ranking.shared_bottom:SharedBottomSettings",
    "mmoe": "training.ranking.mmoe:MMoESettings",
    "ple": "training.ranking.ple:PLESettings",
}
"""``module:Class`` of the settings of what ``ranking.model`` can name; the module builds it.

Modules are imported when asked for: they import torch, which takes seconds.
"""

ENGINE_DEFAULTS: dict[str, Any] = {"epochs": 10, "patience": 4, "seed": 42}
"""What click models start from, over the defaults of :class:`EngineSettings`: enough epochs for
early stopping to decide, which waits for one epoch without a better validation. Each model's own
``engine_defaults`` go over it; docs/results.md says on what they were chosen."""

SEVERAL_LABELS = ("shared_bottom", "mmoe", "ple")
"""Those that need two label columns at least."""


def build(
    name: str, schema: "Schema", settings: "ClickSettings", seed: int | None = None
) -> "ClickModel":
    """The model ``name`` for the columns of ``schema``.

    Args:
        seed: of the initial weights; None: they come from torch's generator as it stands.

    Raises:
        UserError: an unknown name, or columns that the model needs and the schema lacks.
    """
    if name not in MODELS:
        raise UserError(f"ranking.model: {name!r} is unknown; known: {', '.join(MODELS)}")
    if seed is not None:
        from training.engine import seed_all

        seed_all(seed)
    return importlib.import_module(MODELS[name].partition(":")[0]).build(schema, settings)


def settings_class(name: str) -> type["ClickSettings"]:
    """The settings class of the model ``name``."""
    module, _, attribute = MODELS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
