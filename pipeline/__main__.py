"""The command line: ``merlin-pipeline STAGE``, one subcommand a stage, each usable on its own."""

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from core import console
from core.errors import UserError
from pipeline import layout
from pipeline.params import READ_RECIPES, RECIPES, SECTIONS, Params, settings_class

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    console.only_the_first_speaks()
    try:
        options.run(options)
    except UserError as error:
        console.fail(str(error))
        return 1
    except KeyboardInterrupt:
        console.fail("interrupted; the same command goes on from what is finished")
        return INTERRUPTED
    except OSError as error:
        console.fail(explain(error))
        return 1
    return 0


def explain(error: OSError) -> str:
    """What the machine refused, as a person needs it."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error)
    place = error.filename2 or error.filename
    where = f"{place}: " if place else ""
    if full:
        return f"{where}no room left on the disk; free some, then give the same command again"
    return f"{where}{error.strerror or error}"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="merlin-pipeline",
        description="From raw click and session logs to evaluated recommenders, stage by stage.",
        epilog="Settings come from params.yaml (if there is one here), --settings and --set. "
        "'merlin-pipeline settings' lists them all.",
    )
    stages = parser.add_subparsers(title="stages", required=True, metavar="STAGE")
    _generate(stages)
    _ingest(stages)
    _preprocess(stages)
    _inspect(stages)
    _train(stages)
    _profile(stages)
    _evaluate(stages)
    _export(stages)
    _apply(stages)
    _tools(stages)
    return parser


def _stage(
    stages: argparse._SubParsersAction,
    name: str,
    summary: str,
    run: Callable[[argparse.Namespace], None],
    recipes: Sequence[str] = RECIPES,
    settings: bool = True,
) -> argparse.ArgumentParser:
    stage = stages.add_parser(name, help=summary, description=summary)
    stage.set_defaults(run=run)
    if recipes:
        stage.add_argument("recipe", choices=recipes, help="which road")
    if settings:
        stage.add_argument(
            "--settings", metavar="FILE", action="append", help="settings file; later ones win"
        )
        stage.add_argument(
            "--set", metavar="KEY=VALUE", action="append", default=[], help="one setting"
        )
    return stage


def _params(options: argparse.Namespace) -> Params:
    return Params.read(options.settings, options.set)


def _path(stage: argparse.ArgumentParser, flag: str, meaning: str, default: str) -> None:
    stage.add_argument(flag, type=Path, metavar="PATH", help=f"{meaning} (default: {default})")


def _generate(stages: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.generate import generate

        params = _params(options)
        output = options.output or layout.folder(options.recipe, "generated")
        systems = options.recipe not in RECIPES
        section = options.recipe if systems else f"{options.recipe}.generate"
        generate(options.recipe, params.section(section), output)

    stage = _stage(
        stages,
        "generate",
        "write a synthetic log whose best possible score is known",
        run,
        recipes=(*RECIPES, "random", "trace"),
    )
    _path(stage, "--output", "folder to write", "data/RECIPE/generated")


def _ingest(stages: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.ingest import ingest

        settings = _params(options).section(f"{options.recipe}.source")
        source = (
            options.input or settings.path or layout.folder(options.recipe, "generated") / "log"
        )
        ingest(
            options.recipe, settings, source, options.output or layout.folder(options.recipe, "raw")
        )

    stage = _stage(
        stages, "ingest", "read raw logs into typed, checked Parquet", run, recipes=READ_RECIPES
    )
    stage.add_argument(
        "--input",
        metavar="PATH",
        nargs="+",
        help="file, folder or glob (default: source.path, else data/RECIPE/generated/log)",
    )
    _path(stage, "--output", "folder to write", "data/RECIPE/raw")


def _preprocess(stages: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.preprocess import preprocess

        raw = options.input or layout.folder(options.recipe, "raw")
        output = options.output or layout.folder(options.recipe, "features")
        preprocess(options.recipe, raw, output, _params(options), options.grow)

    stage = _stage(
        stages,
        "preprocess",
        "fit an NVTabular workflow on the training split, apply it",
        run,
        recipes=READ_RECIPES,
    )
    _path(stage, "--input", "folder that ingest wrote", "data/RECIPE/raw")
    _path(stage, "--output", "folder to write", "data/RECIPE/features")
    stage.add_argument(
        "--grow",
        action="store_true",
        help="add the input to the features that are in --output",
    )


def _inspect(stages: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.inspect import inspect

        inspect(
            options.recipe,
            options.raw or layout.folder(options.recipe, "raw"),
            options.features or layout.folder(options.recipe, "features"),
            options.output or layout.metrics_file(f"{options.recipe}-data"),
            options.plots or layout.plots_folder(f"{options.recipe}-data"),
        )

    stage = _stage(
        stages,
        "inspect",
        "report what the data holds, and how it drifts",
        run,
        recipes=READ_RECIPES,
        settings=False,
    )
    stage.add_argument(
        "--raw",
        type=Path,
        metavar="PATH",
        nargs="+",
        help="folder that ingest wrote; of features that grew all of them, oldest first (default: "
        "data/RECIPE/raw)",
    )
    _path(stage, "--features", "folder that preprocess wrote", "data/RECIPE/features")
    _path(stage, "--output", "JSON file to write", "metrics/RECIPE-data.json")
    _path(stage, "--plots", "folder to write", "plots/RECIPE-data")


def _train(stages: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.train import train

        features = options.input or layout.folder(options.recipe, "features")
        output = options.output or layout.folder(options.recipe, "model")
        train(options.recipe, features, output, _params(options))

    stage = _stage(
        stages, "train", "train the recipe's model on the features", run, recipes=READ_RECIPES
    )
    _path(stage, "--input", "folder that preprocess wrote", "data/RECIPE/features")
    _path(stage, "--output", "folder to write", "data/RECIPE/model")


def _profile(stages: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.profile import profile

        features = options.input or layout.folder(options.recipe, "features")
        output = options.output or layout.folder(options.recipe, "profile")
        profile(options.recipe, features, output, _params(options), options.steps)

    stage = _stage(stages, "profile", "show where the time of a training step goes", run)
    _path(stage, "--input", "folder that preprocess wrote", "data/RECIPE/features")
    _path(stage, "--output", "folder for profile.json and trace.json", "data/RECIPE/profile")
    stage.add_argument("--steps", type=int, default=100, help="to time (default: 100)")


def _evaluate(stages: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.evaluate import evaluate

        evaluate(
            options.recipe,
            options.features or layout.folder(options.recipe, "features"),
            options.model or layout.folder(options.recipe, "model"),
            options.metrics or layout.metrics_file(options.recipe),
            options.plots or layout.plots_folder(options.recipe),
            _params(options),
            options.split,
        )

    stage = _stage(
        stages, "evaluate", "measure a trained model on held-out data", run, recipes=READ_RECIPES
    )
    _path(stage, "--features", "folder that preprocess wrote", "data/RECIPE/features")
    _path(stage, "--model", "folder that train wrote", "data/RECIPE/model")
    _path(stage, "--metrics", "JSON file to write", "metrics/RECIPE.json")
    _path(stage, "--plots", "folder to write", "plots/RECIPE")
    stage.add_argument("--split", choices=("valid", "test"), default="test", help="default: test")


def _export(stages: argparse._SubParsersAction) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.export import export

        export(
            options.recipe,
            options.features or layout.folder(options.recipe, "features"),
            options.model or layout.folder(options.recipe, "model"),
            options.output or layout.folder(options.recipe, "bundle"),
        )

    stage = _stage(stages, "export", "put model and workflow into one bundle", run, settings=False)
    _path(stage, "--features", "folder that preprocess wrote", "data/RECIPE/features")
    _path(stage, "--model", "folder that train wrote", "data/RECIPE/model")
    _path(stage, "--output", "folder to write", "data/RECIPE/bundle")


def _apply(stages: argparse._SubParsersAction) -> None:
    def score(options: argparse.Namespace) -> None:
        from pipeline import scoring

        scoring.score(options.bundle, options.input, options.output)

    def recommend(options: argparse.Namespace) -> None:
        from pipeline import scoring

        scoring.recommend(options.bundle, options.input, options.output, options.k)

    for name, summary, run, recipe in (
        ("score", "click probabilities for the rows of a raw click log", score, "ranking"),
        ("recommend", "next items for the sessions of a raw clickstream", recommend, "sessions"),
    ):
        stage = _stage(stages, name, summary, run, recipes=(), settings=False)
        default = layout.folder(recipe, "bundle")
        stage.add_argument(
            "--bundle", type=Path, metavar="PATH", default=default, help=f"default: {default}"
        )
        stage.add_argument("--input", metavar="PATH", required=True, help="file, folder or glob")
        stage.add_argument(
            "--output", type=Path, metavar="FILE", required=True, help=".parquet or .csv"
        )
        if name == "recommend":
            stage.add_argument("-k", type=int, default=20, help="items a session (default: 20)")


def _tools(stages: argparse._SubParsersAction) -> None:
    def report(options: argparse.Namespace) -> None:
        from pipeline.stages.report import report

        report()

    def use(options: argparse.Namespace) -> None:
        from pipeline.stages.use import use

        use(options.recipe_file)

    _stage(stages, "report", "print what the metrics say", report, recipes=(), settings=False)
    stage = _stage(
        stages, "use", "put a recipe's settings into params.yaml", use, recipes=(), settings=False
    )
    stage.add_argument("recipe_file", metavar="FILE", help="such as recipes/rees46.yaml")
    _stage(stages, "settings", "check all settings; list them with meanings", _settings, recipes=())


def _settings(options: argparse.Namespace) -> None:
    params = _params(options)
    params.check()
    for name in SECTIONS:
        if "." not in name and name != "cluster" and name not in params.tree:
            continue
        given = params.section(name)
        console.say(f"{name}:")
        _describe(given, settings_class(name), "  ")


def _describe(given: object, kind: type, indent: str) -> None:
    for name, field in kind.model_fields.items():  # type: ignore[attr-defined]
        value = getattr(given, name)
        if hasattr(type(value), "model_fields"):
            console.say(f"{indent}{name}:")
            _describe(value, type(value), indent + "  ")
        else:
            meaning = " ".join((field.description or "").split())
            console.say(f"{indent}{name}: {value}    # {meaning}")


if __name__ == "__main__":
    sys.exit(main())
