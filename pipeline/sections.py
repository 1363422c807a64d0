"""The blocks of params.yaml: whose settings each holds, and what a recipe's defaults are."""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from core.settings import Settings
from training.interactions import ENGINE_DEFAULTS as INTERACTION_ENGINE
from training.interactions import MODELS as INTERACTION_MODELS
from training.ranking import ENGINE_DEFAULTS as CLICK_ENGINE
from training.ranking import MODELS as CLICK_MODELS
from training.sessions import ENGINE_DEFAULTS as SESSION_ENGINE
from training.sessions import MODELS as SESSION_MODELS

RECIPES = ("ranking", "sessions")
READ_RECIPES = (*RECIPES, "interactions")
"""Those that can be ingested, preprocessed, trained on and evaluated; ``interactions`` is no part
of the DVC pipeline."""


class Section(NamedTuple):
    """One block of params.yaml."""

    settings: str
    """``module:Class`` of its settings."""
    defaults: Mapping[str, Any] = {}
    """What this recipe sets otherwise than the class does."""


ENGINE = "training.engine_settings:EngineSettings"
SECTIONS: dict[str, Section] = {
    "cluster": Section("core.cluster:ClusterSettings"),
    "ranking.generate": Section("pipeline.synthetic.criteo:CriteoGenerateSettings"),
    "ranking.source": Section("pipeline.ingest.clicks:ClickSourceSettings"),
    "ranking.preprocess": Section("pipeline.preprocess_ranking:RankingPreprocessSettings"),
    **{f"ranking.{name}": Section(settings) for name, settings in CLICK_MODELS.items()},
    "ranking.train": Section(ENGINE, CLICK_ENGINE),
    "ranking.compare": Section("pipeline.compare.settings:RankingCompareSettings"),
    "sessions.generate": Section("pipeline.synthetic.sessions:SessionsGenerateSettings"),
    "sessions.source": Section("pipeline.ingest.clickstream:ClickstreamSourceSettings"),
    "sessions.preprocess": Section("pipeline.preprocess_sessions:SessionsPreprocessSettings"),
    **{
        f"sessions.{name}": Section(f"{kind.__module__}:{kind.__name__}")
        for name, (_, _, kind) in SESSION_MODELS.items()
    },
    "sessions.train": Section(ENGINE, SESSION_ENGINE),
    "sessions.compare": Section("pipeline.compare.settings:SessionsCompareSettings"),
    "sessions.evaluate": Section("training.sessions.settings:SessionEvaluationSettings"),
    "sessions.windows": Section("pipeline.windows.settings:WindowsSettings"),
    "interactions.source": Section("pipeline.ingest.ratings:RatingsSourceSettings"),
    "interactions.preprocess": Section(
        "pipeline.preprocess_interactions:InteractionsPreprocessSettings"
    ),
    **{f"interactions.{name}": Section(path) for name, path in INTERACTION_MODELS.items()},
    "interactions.train": Section(ENGINE, INTERACTION_ENGINE),
    "random": Section("pipeline.synthetic.random_ids:RandomGenerateSettings"),
    "trace": Section("pipeline.synthetic.trace:TraceGenerateSettings"),
}
MODELS = {
    "ranking": tuple(CLICK_MODELS),
    "sessions": tuple(SESSION_MODELS),
    "interactions": tuple(INTERACTION_MODELS),
}
"""What ``RECIPE.model`` may name; the first is the default."""


def settings_class(name: str) -> type[Settings]:
    """The settings class of a section."""
    module, _, attribute = SECTIONS[name].settings.partition(":")
    return getattr(importlib.import_module(module), attribute)
