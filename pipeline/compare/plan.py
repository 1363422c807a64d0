"""What is to be trained: each entry's own settings, checked before anything is."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import kinds
from core.artifacts import write_json
from core.console import say
from core.errors import UserError
from core.outputs import claimed
from core.settings import merge
from pipeline.compare.settings import AfterSettings, CompareSettings
from pipeline.evaluation.metric_names import SAME
from pipeline.params import Params
from pipeline.sections import MODELS


@dataclass(frozen=True)
class Entry:
    """A model and how it is trained; ``params`` are all settings with the entry's over them."""

    recipe: str
    name: str
    model: str
    params: Params
    after: AfterSettings | None

    def of_seed(self, seed: int) -> Params:
        """The settings of the training that starts from ``seed``."""
        return self._train({"seed": seed})

    def fine_tuning(self, seed: int) -> Params | None:
        """The settings of what comes after low rank; None where nothing is trained then."""
        if self.after is None or self.after.train is None:
            return None
        return self._train({**self.after.train, "seed": seed})

    def _train(self, settings: dict[str, Any]) -> Params:
        own = {self.recipe: {self.model: {"train": settings}}}
        return Params(merge(self.params.tree, own), self.params.origin)

    def describe(self) -> dict[str, Any]:
        """All that tells this entry's results from another's, but for the seed, as JSON."""
        after = None
        if self.after is not None:
            tuning = self.fine_tuning(0)
            after = self.after.model_dump(mode="json", exclude={"train"})
            after["train"] = _trained(tuning, self.recipe) if tuning else None
        _, settings = self.params.model(self.recipe)
        described = {
            "model": self.model,
            "settings": settings.model_dump(mode="json", exclude={"train"}),
            "train": _trained(self.params, self.recipe),
            "after": after,
        }
        if self.recipe == "sessions":
            evaluated = self.params.section("sessions.evaluate")
            described["evaluate"] = evaluated.model_dump(mode="json")
        return described


def _trained(params: Params, recipe: str) -> dict[str, Any]:
    settings = params.engine(recipe).that_shape_the_result()
    return {name: value for name, value in settings.items() if name != "seed"}


def entries(recipe: str, params: Params) -> list[Entry]:
    """What ``RECIPE.compare`` asks for; where it names no entry, every model of the recipe.

    Raises:
        UserError: a setting of an entry is unknown or wrong, naming the entry.
    """
    settings: CompareSettings = params.section(f"{recipe}.compare")
    named = settings.entries or {name: None for name in MODELS[recipe]}
    found = []
    for name, entry in named.items():
        model = (entry and entry.model) or name
        own = merge(entry.settings, {"train": entry.train}) if entry else {}
        tree = merge(params.tree, {recipe: {"model": model, model: own}})
        origin = f"{params.origin}: {recipe}.compare.entries.{name}" if entry else params.origin
        after = entry.after if entry else None
        found.append(Entry(recipe, name, model, Params(tree, origin), after))
        found[-1].describe()  # Validates all of its settings.
    return found


def chosen(found: list[Entry], names: Iterable[str]) -> list[Entry]:
    """The entries called ``names``.

    Raises:
        UserError: there is none of such a name.
    """
    known = {entry.name: entry for entry in found}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(
            f"compare: no entry is called {', '.join(unknown)}; there are {', '.join(known)}"
        )
    return [known[name] for name in names]


def suitable(
    recipe: str, found: list[Entry], features: Path, settings: CompareSettings
) -> list[Entry]:
    """The entries whose model can be built for these features and trained on them.

    Where entries are named, one that cannot be is an error; where they are not, it is left out,
    and said.

    Raises:
        UserError: an entry that does not fit the features, naming it; a metric that its model does
            not have.
    """
    fitting, faults = [], []
    for entry in found:
        try:
            _build(entry, features, settings)
            fitting.append(entry)
        except UserError as error:
            if settings.entries:
                raise UserError(f"{recipe}.compare.entries.{entry.name}: {error}") from None
            faults.append(f"{entry.name}: {error}")
    if not fitting:
        raise UserError(f"{recipe}.compare: no model suits {features}:\n" + "\n".join(faults))
    for fault in faults:
        say(f"compare: left out: {fault}")
    return fitting


def _build(entry: Entry, features: Path, settings: CompareSettings) -> None:
    from pipeline.protocols import session_evaluation
    from pipeline.stages.train import build, read_schema, splits
    from training.tables.storage import tables_in

    if entry.recipe == "sessions":
        session_evaluation(entry.params, features)
    engine = entry.params.engine(entry.recipe)
    out_of_core = engine.tables_out_of_core or None
    schema = read_schema(features)
    name, model_settings = entry.params.model(entry.recipe)
    with tempfile.TemporaryDirectory() as scratch, tables_in(out_of_core and scratch):
        model = build(entry.recipe, name, schema, model_settings, engine.seed)
    splits(entry.recipe, model, schema, features, engine)
    if entry.after is not None:
        from training.ranking.low_rank import compress

        compress(model, entry.after.low_rank)
    _check_metrics(entry, settings)


def _check_metrics(entry: Entry, settings: CompareSettings) -> None:
    known = metric_names(entry.recipe, entry.params)
    unknown = [name for name in settings.metrics if name not in known]
    if unknown:
        raise UserError(
            f"{entry.recipe}.compare.metrics: {', '.join(unknown)} is none of the metrics of "
            f"{entry.model}: {', '.join(known)}"
        )


def metric_names(recipe: str, params: Params) -> list[str]:
    """The names of the metrics that ``evaluate`` gives of the recipe's models."""
    if recipe == "ranking":
        from training.metrics.binary import NAMES

        return list(NAMES)
    from training.sessions import evaluation

    settings = params.section("sessions.evaluate")
    others = [name for name, same in SAME.items() if same in settings.metrics]
    names = (*evaluation.metric_names(settings), *evaluation.at_ks(others, settings.ks))
    return list(dict.fromkeys(names))


def write_plan(found: list[Entry], splits: tuple[str, ...], folder: Path) -> None:
    """A JSON file an entry: it changes when, and only when, the entry's runs have to."""
    with claimed(folder, kinds.PLAN) as claim, claim.replaced() as partial:
        for entry in found:
            write_json(partial / f"{entry.name}.json", {**entry.describe(), "splits": splits})


def judged_splits(features: Path, settings: CompareSettings) -> tuple[str, ...]:
    """Those of ``compare.splits`` that have rows.

    Raises:
        UserError: the last one, which the tables are of, has none.
    """
    from pipeline.stages.train import rows_of

    *others, last = settings.splits
    if not rows_of(features, last):
        raise UserError(
            f"{features}: the {last} split has no rows to compare models on; set "
            f"preprocess.split.{last} above 0, or leave it out of compare.splits"
        )
    return (*(split for split in others if rows_of(features, split)), last)
