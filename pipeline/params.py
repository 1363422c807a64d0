"""params.yaml as one thing: which section belongs to which component, and its defaults.

A stage validates the sections that it uses; :meth:`Params.check` validates all. Sections are
imported when asked for, so that a short stage does not wait for torch.
"""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import UserError
from core.settings import Settings, merge, read_tree, validate
from training.interactions import ENGINE_DEFAULTS as INTERACTION_ENGINE
from training.interactions import MODELS as INTERACTION_MODELS
from training.ranking import MODELS as CLICK_MODELS
from training.sessions import ENGINE_DEFAULTS as SESSION_ENGINE

RECIPES = ("ranking", "sessions")
READ_RECIPES = (*RECIPES, "interactions")
"""Those that can be ingested, preprocessed, trained on and evaluated; ``interactions`` is no part
of the DVC pipeline."""
PARAMS_FILE = Path("params.yaml")


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
    "ranking.source": Section("pipeline.ingest.criteo:CriteoSourceSettings"),
    "ranking.preprocess": Section("pipeline.preprocess_ranking:RankingPreprocessSettings"),
    **{f"ranking.{name}": Section(settings) for name, settings in CLICK_MODELS.items()},
    "ranking.train": Section(ENGINE),
    "sessions.generate": Section("pipeline.synthetic.sessions:SessionsGenerateSettings"),
    "sessions.source": Section("pipeline.ingest.clickstream:ClickstreamSourceSettings"),
    "sessions.preprocess": Section("pipeline.preprocess_sessions:SessionsPreprocessSettings"),
    "sessions.xlnet": Section("training.sessions.settings:XLNetSettings"),
    "sessions.popular": Section("training.sessions.settings:PopularSettings"),
    "sessions.train": Section(ENGINE, SESSION_ENGINE),
    "sessions.evaluate": Section("training.sessions.settings:SessionEvaluationSettings"),
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
    "sessions": ("xlnet", "popular"),
    "interactions": tuple(INTERACTION_MODELS),
}
"""What ``RECIPE.model`` may name; the first is the default."""


class Params:
    """The settings of a run: files and overrides merged, sections validated when asked for."""

    def __init__(self, tree: Mapping[str, Any] | None = None, origin: str = "settings"):
        self.tree = dict(tree or {})
        self.origin = origin
        _check_names(self.tree, origin)

    @classmethod
    def read(
        cls, files: Iterable[str | Path] | None = None, overrides: Iterable[str] = ()
    ) -> "Params":
        """Reads settings files, later ones over earlier, then ``key=value`` overrides.

        ``files`` None: ``params.yaml`` of the working directory where there is one, else defaults.
        """
        if files is None:
            files = [PARAMS_FILE] if PARAMS_FILE.exists() else []
        return cls(*read_tree(files, overrides))

    def section(self, name: str) -> Any:
        """The validated settings of one section, such as ``ranking.train``."""
        section = SECTIONS[name]
        given: Any = self.tree
        for part in name.split("."):
            given = (given.get(part) or {}) if isinstance(given, Mapping) else given
        if not isinstance(given, Mapping):
            raise UserError(f"{self.origin}: {name}: expected a block of settings, got {given!r}")
        settings = merge(section.defaults, given)
        try:
            return validate(settings_class(name), settings, self.origin)
        except UserError as error:
            raise UserError(
                str(error).replace(f"{self.origin}: ", f"{self.origin}: {name}: ")
            ) from None

    def model(self, recipe: str) -> tuple[str, Settings]:
        """The name of the recipe's model and that model's settings."""
        name = (self.tree.get(recipe) or {}).get("model", MODELS[recipe][0])
        if name not in MODELS[recipe]:
            known = ", ".join(MODELS[recipe])
            raise UserError(
                f"{self.origin}: {recipe}.model: unknown model {name!r}; known: {known}"
            )
        return name, self.section(f"{recipe}.{name}")

    def check(self) -> None:
        """Validates every section; those of the systems generators where they are given."""
        for name in SECTIONS:
            if "." in name or name in self.tree or name == "cluster":
                self.section(name)
        for recipe in MODELS:
            self.model(recipe)


def settings_class(name: str) -> type[Settings]:
    """The settings class of a section."""
    module, _, attribute = SECTIONS[name].settings.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _check_names(tree: Mapping[str, Any], origin: str) -> None:
    """Names of sections, at every stage: a misspelt one must not be found an hour later."""
    known = {name for name in SECTIONS} | {f"{recipe}.model" for recipe in MODELS}
    for top, below in tree.items():
        if top in known and top not in READ_RECIPES:
            continue
        if top not in READ_RECIPES:
            _unknown(top, sorted({name.partition(".")[0] for name in known}), origin)
        if below is not None and not isinstance(below, Mapping):
            raise UserError(f"{origin}: {top}: expected a block of settings, got {below!r}")
        for name in below or {}:
            if f"{top}.{name}" not in known:
                choices = [item for item in known if item.startswith(f"{top}.")]
                _unknown(f"{top}.{name}", sorted(choices), origin)


def _unknown(name: str, known: list[str], origin: str) -> None:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    raise UserError(f"{origin}: unknown setting '{name}'; {hint}")
