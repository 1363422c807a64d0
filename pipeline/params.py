"""params.yaml as one thing: which section belongs to which component, and its defaults.

A stage validates the sections that it uses; :meth:`Params.check` validates all. Sections are
imported when asked for, so that a short stage does not wait for torch.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from core.errors import UserError
from core.settings import merge, read_tree, shown, validate
from pipeline import setting_names
from pipeline.sections import (
    ENGINE,
    MODELS,
    READ_RECIPES,
    SECTIONS,
    settings_class,
)
from training.engine_settings import EngineSettings
from training.model_settings import ModelSettings

PARAMS_FILE = Path("params.yaml")
DEVICE, DEVICES = "device", ("auto", "cpu", "cuda")
"""The setting above all blocks: where rows are preprocessed and models are trained. The ``device``
of a block, of ``cluster`` or ``RECIPE.train``, goes over it."""

REPLACED_WHOLE = tuple(f"{recipe}.source.columns" for recipe in READ_RECIPES)
"""Blocks that describe a log: a file that has one takes the place of an earlier file's, so that
columns of two logs are not mixed."""


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
        files = shared_files() if files is None else files
        return cls(*read_tree(files, overrides, REPLACED_WHOLE))

    def section(self, name: str) -> Any:
        """The validated settings of one section, such as ``ranking.train``."""
        return self._validated(name, merge(self._defaults(name), self._given(name)), name)

    def source(self, recipe: str, input: Any) -> Any:
        """The settings ``RECIPE.source`` for the log ``input``: where no columns are set, those of
        a generated log are known."""
        name = f"{recipe}.source"
        if recipe != "sessions" or self._given(name).get("columns") is not None:
            return self.section(name)
        from pipeline.synthetic.log_columns import columns_of_generated

        known = merge(self._given(name), {"columns": columns_of_generated(input)})
        return self._validated(name, known, name)

    def _defaults(self, name: str) -> Mapping[str, Any]:
        """What a section starts from in this run."""
        defaults = SECTIONS[name].defaults
        if self.tree.get(DEVICE) and (name == "cluster" or SECTIONS[name].settings == ENGINE):
            defaults = {**defaults, DEVICE: self.tree[DEVICE]}
        if name == "ranking.preprocess":
            defaults = {**defaults, **self._columns_read()}
        return defaults

    def _columns_read(self) -> Mapping[str, Any]:
        """What the workflow of a click log makes of columns of its own: all that are read; numbers
        as they are, which need not be counts as Criteo's."""
        columns = self._given("ranking.source").get("columns")
        if not isinstance(columns, Mapping):
            return {}
        kinds = ("labels", "continuous", "categorical", "multi_valued")
        read = {kind: columns.get(kind, []) for kind in kinds}
        return {"workflow": {**read, "dense_transform": "none", "dense_missing": "median"}}

    def _given(self, name: str) -> Mapping[str, Any]:
        given: Any = self.tree
        for part in name.split("."):
            given = (given.get(part) or {}) if isinstance(given, Mapping) else given
        if not isinstance(given, Mapping):
            raise UserError(
                f"{self.origin}: {name}: expected a block of settings, got {shown(given)}"
            )
        return _chosen(given) if SECTIONS[name].settings == ENGINE else given

    def _validated(self, name: str, settings: Mapping[str, Any], where: str) -> Any:
        try:
            return validate(settings_class(name), settings, self.origin)
        except UserError as error:
            raise UserError(
                str(error).replace(f"{self.origin}: ", f"{self.origin}: {where}: ")
            ) from None

    def model(self, recipe: str) -> tuple[str, ModelSettings]:
        """The name of the recipe's model and that model's settings."""
        name = (self.tree.get(recipe) or {}).get("model", MODELS[recipe][0])
        return name, self.section(f"{recipe}.{name}")

    def engine(self, recipe: str) -> EngineSettings:
        """How the recipe's model is trained: ``RECIPE.MODEL.train`` over ``RECIPE.train`` over what
        that kind of model starts from."""
        return self._engine(recipe, self.model(recipe)[0])

    def _engine(self, recipe: str, name: str) -> EngineSettings:
        common, settings = f"{recipe}.train", self.section(f"{recipe}.{name}")
        self.section(common)  # A fault there is named as one of that block.
        merged = merge(self._defaults(common), settings.engine_defaults)
        merged = merge(merge(merged, self._given(common)), _chosen(settings.train))
        return self._validated(common, merged, f"{recipe}.{name}.train")

    def check(self) -> None:
        """Validates every section; those of the systems generators where they are given."""
        for name in SECTIONS:
            if "." in name or name in self.tree or name == "cluster":
                self.section(name)
        for recipe, names in MODELS.items():
            self.model(recipe)
            for name in names:
                self._engine(recipe, name)


def shared_files() -> list[Path]:
    """``params.yaml`` of the working directory, where there is one."""
    return [PARAMS_FILE] if PARAMS_FILE.exists() else []


def _chosen(train: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of a training without those that null leaves as the model has them."""
    fields = EngineSettings.model_fields
    nullable = {name for name in fields if type(None) in get_args(fields[name].annotation)}
    return {k: v for k, v in train.items() if v is not None or k in nullable or k not in fields}


def _check_names(tree: Mapping[str, Any], origin: str) -> None:
    """Names of sections, at every stage: a misspelt one must not be found an hour later."""
    known = {name for name in SECTIONS} | {f"{recipe}.model" for recipe in MODELS}
    for top, below in tree.items():
        if top == DEVICE and below not in (None, *DEVICES):
            raise UserError(f"{origin}: device: expected auto, cpu or cuda, got {shown(below)}")
        if top == DEVICE or (top in known and top not in READ_RECIPES):
            continue
        if top not in READ_RECIPES:
            tops = sorted({DEVICE, *(name.partition(".")[0] for name in known)})
            _unknown(top, tops, origin, below)
        if below is not None and not isinstance(below, Mapping):
            raise UserError(f"{origin}: {top}: expected a block of settings, got {shown(below)}")
        for name, value in (below or {}).items():
            if f"{top}.{name}" not in known:
                choices = [item for item in known if item.startswith(f"{top}.")]
                _unknown(f"{top}.{name}", sorted(choices), origin, value)
        if below and "model" in below:
            _check_model(top, below["model"], origin)


def _check_model(recipe: str, name: Any, origin: str) -> None:
    known = MODELS[recipe]
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"{origin}: {recipe}.model: unknown model {name!r}; known: {', '.join(known)}{hint}"
        )


def _is_block(name: str) -> bool:
    return any(section == name or section.startswith(f"{name}.") for section in SECTIONS)


def _unknown(name: str, known: list[str], origin: str, below: Any) -> None:
    """Raises what is said of a block that there is not; ``below``: what is in it."""
    whole = name
    while isinstance(below, Mapping) and len(below) == 1:
        key, below = next(iter(below.items()))
        whole = f"{whole}.{key}"
    # A setting without its block, as in --set epochs=3; a misspelt block; a misspelt setting.
    meant = setting_names.suggestions(whole)
    meant = meant or [
        f"{recipe}.{name}" for recipe in READ_RECIPES if _is_block(f"{recipe}.{name}")
    ]
    block = [] if meant else difflib.get_close_matches(name, known, n=1)
    meant = meant or block or setting_names.near(whole)
    hint = f"known: {', '.join(known)}"
    if meant:
        hint = f"did you mean {' or '.join(map(repr, meant))}?"
    wrong = whole if meant and not block else name
    raise UserError(f"{origin}: unknown setting '{wrong}'; {hint}")
