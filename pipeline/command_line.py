"""The subcommands of ``merlin-pipeline``: one a stage, each usable on its own."""

import argparse
import gc
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from core import console, failures
from core.errors import UserError
from pipeline import layout
from pipeline.arguments import TRAIN_MEMORY, Parser, Stages, add_path, add_stage, read_params
from pipeline.compare.command import add_compare
from pipeline.ingest.source import SourceSettings
from pipeline.sections import READ_RECIPES, RECIPES
from pipeline.windows.command import add_windows

SCORED = (
    "Columns of the output: file (where there are several inputs), line (in that file from 1, as "
    "an editor counts, a header row included; of Parquet the row), the columns of --id-column, "
    "probability. A line that cannot be read has no row in the output: join by line or by an id, "
    "never by position."
)
RECOMMENDED = (
    "Columns of the output: the session and the item under the log's own names, rank (from 1), "
    "score (what the model orders by, to be compared within one list only: of neural models the "
    "logit, of the others see docs/bundles.md) and source: model, or popular for a session of "
    "which no item is known; it gets the most frequent items, with their training events as score. "
    "Where sessions are cut from users' events at pauses, each user gets one list, for the user's "
    "latest session in the input, and the user's id is in the place of the session's."
)
INGEST_MEMORY = "lower RECIPE.source.workers, block_bytes or rows_per_shard"


def run(arguments: Sequence[str] | None, command: failures.Command) -> None:
    """Runs one subcommand.

    Args:
        arguments: None: those of this process.
        command: gets what is known of the subcommand, for the message if it fails.

    Raises:
        SystemExit: the arguments are wrong, or ask for help only.
    """
    parser = make_parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        parser.exit(2)
    options = parser.parse_args(arguments)
    console.silence_other_ranks()
    command.name, command.lower = options.stage, options.lower
    if options.module:
        _import(options.module)
    command.interrupted = options.interrupted
    options.run(options)


def _import(module: str) -> None:
    """Imports what a subcommand needs, with garbage collection off: modules leave no garbage, and
    looking for it took a sixth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module(module)
    finally:
        if collects:
            gc.enable()


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="merlin-pipeline",
        description="From raw click and session logs to evaluated recommenders, stage by stage.",
        epilog="Settings: defaults, over them params.yaml (if there is one here), over it the "
        "files of --settings, over these --set. "
        "'merlin-pipeline settings' shows them. "
        f"Where {failures.DEBUG} is set, the details of an error are printed.",
    )
    stages = parser.add_subparsers(title="stages", required=True, metavar="STAGE")
    _generate(stages)
    _ingest(stages)
    _preprocess(stages)
    _inspect(stages)
    _train(stages)
    _profile(stages)
    _evaluate(stages)
    add_compare(stages)
    add_windows(stages)
    _export(stages)
    _apply(stages)
    _tools(stages)
    return parser


def _generate(stages: Stages) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.generate import generate

        params = read_params(options)
        output = options.output or layout.folder(options.recipe, "generated")
        systems = options.recipe not in RECIPES
        section = options.recipe if systems else f"{options.recipe}.generate"
        generate(options.recipe, params.section(section), output)

    stage = add_stage(
        stages,
        "generate",
        "write a synthetic log whose best possible score is known",
        run,
        recipes=(*RECIPES, "random", "trace"),
        module="pipeline.stages.generate",
        lower="lower generate.chunk_rows (of sessions: chunk_sessions) or generate.threads",
    )
    add_path(stage, "--output", "folder to write", "data/RECIPE/generated")


def _ingest(stages: Stages) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.ingest import ingest

        params = read_params(options)
        path = params.section(f"{options.recipe}.source").path
        source = options.input or path or layout.folder(options.recipe, "generated") / "log"
        settings = params.source(options.recipe, source)
        ingest(
            options.recipe, settings, source, options.output or layout.folder(options.recipe, "raw")
        )

    stage = add_stage(
        stages,
        "ingest",
        "read raw logs into typed, checked Parquet",
        run,
        recipes=READ_RECIPES,
        module="pipeline.stages.ingest",
        interrupted=failures.RESUMES,
        lower=INGEST_MEMORY,
    )
    stage.add_argument(
        "--input",
        metavar="PATH",
        nargs="+",
        help="file, folder or glob (default: source.path, else data/RECIPE/generated/log)",
    )
    add_path(stage, "--output", "folder to write", "data/RECIPE/raw")


def _preprocess(stages: Stages) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.preprocess import preprocess

        raw = options.input or layout.folder(options.recipe, "raw")
        output = options.output or layout.folder(options.recipe, "features")
        preprocess(options.recipe, raw, output, read_params(options), options.grow)

    stage = add_stage(
        stages,
        "preprocess",
        "fit an NVTabular workflow on the training split, apply it",
        run,
        recipes=READ_RECIPES,
        module="pipeline.stages.preprocess",
        interrupted=failures.RESUMES,
        lower="lower cluster.workers, cluster.memory_limit or RECIPE.preprocess.rows_per_part",
    )
    add_path(stage, "--input", "folder that ingest wrote", "data/RECIPE/raw")
    add_path(stage, "--output", "folder to write", "data/RECIPE/features")
    stage.add_argument(
        "--grow",
        action="store_true",
        help="add the input to the features that are in --output",
    )


def _inspect(stages: Stages) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.inspect import inspect

        inspect(
            options.recipe,
            options.raw or layout.folder(options.recipe, "raw"),
            options.features or layout.folder(options.recipe, "features"),
            options.output or layout.metrics_file(f"{options.recipe}-data"),
            options.plots or layout.plots_folder(f"{options.recipe}-data"),
        )

    stage = add_stage(
        stages,
        "inspect",
        "report what the data holds, and how it drifts",
        run,
        recipes=READ_RECIPES,
        settings=False,
        module="pipeline.stages.inspect",
        lower="ingest with a lower source.rows_per_shard",
    )
    stage.add_argument(
        "--raw",
        type=Path,
        metavar="PATH",
        nargs="+",
        help="folder that ingest wrote; of features that grew all of them, oldest first (default: "
        "data/RECIPE/raw)",
    )
    add_path(stage, "--features", "folder that preprocess wrote", "data/RECIPE/features")
    add_path(stage, "--output", "JSON file to write", "metrics/RECIPE-data.json")
    add_path(stage, "--plots", "folder to write", "plots/RECIPE-data")


def _train(stages: Stages) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.train import train

        features = options.input or layout.folder(options.recipe, "features")
        output = options.output or layout.folder(options.recipe, "model")
        train(options.recipe, features, output, read_params(options))

    stage = add_stage(
        stages,
        "train",
        "train the recipe's model on the features",
        run,
        recipes=READ_RECIPES,
        module="pipeline.stages.train",
        interrupted=failures.RESUMES,
        lower=TRAIN_MEMORY,
    )
    add_path(stage, "--input", "folder that preprocess wrote", "data/RECIPE/features")
    add_path(stage, "--output", "folder to write", "data/RECIPE/model")


def _profile(stages: Stages) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.profile import profile

        features = options.input or layout.folder(options.recipe, "features")
        output = options.output or layout.folder(options.recipe, "profile")
        profile(options.recipe, features, output, read_params(options), options.steps)

    stage = add_stage(
        stages,
        "profile",
        "show where the time of a training step goes",
        run,
        module="pipeline.stages.profile",
        lower=TRAIN_MEMORY,
    )
    add_path(stage, "--input", "folder that preprocess wrote", "data/RECIPE/features")
    add_path(stage, "--output", "folder for profile.json and trace.json", "data/RECIPE/profile")
    stage.add_argument(
        "--steps", type=int, default=100, help="steps to time (default: 100)", metavar="N"
    )


def _evaluate(stages: Stages) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.evaluate import evaluate

        evaluate(
            options.recipe,
            options.features or layout.folder(options.recipe, "features"),
            options.model or layout.folder(options.recipe, "model"),
            options.metrics or layout.metrics_file(options.recipe),
            options.plots or layout.plots_folder(options.recipe),
            read_params(options),
            options.split,
            options.baselines,
        )

    stage = add_stage(
        stages,
        "evaluate",
        "measure a trained model on held-out data",
        run,
        recipes=READ_RECIPES,
        module="pipeline.stages.evaluate",
        lower="lower RECIPE.train.valid_batch_size (of sessions: sessions.evaluate.scores_mb)",
    )
    add_path(stage, "--features", "folder that preprocess wrote", "data/RECIPE/features")
    add_path(stage, "--model", "folder that train wrote", "data/RECIPE/model")
    add_path(stage, "--metrics", "JSON file to write", "metrics/RECIPE.json")
    add_path(stage, "--plots", "folder to write", "plots/RECIPE")
    stage.add_argument(
        "--split",
        choices=("valid", "test"),
        default="test",
        help="rows to judge on (default: test)",
    )
    stage.add_argument(
        "--no-baselines",
        dest="baselines",
        action="store_false",
        help="leave out the comparison with simple models, which takes a while on large logs",
    )


def _export(stages: Stages) -> None:
    def run(options: argparse.Namespace) -> None:
        from pipeline.stages.export import export

        export(
            options.recipe,
            options.features or layout.folder(options.recipe, "features"),
            options.model or layout.folder(options.recipe, "model"),
            options.output or layout.folder(options.recipe, "bundle"),
            read_params(options),
        )

    stage = add_stage(
        stages,
        "export",
        "put model and workflow into one bundle",
        run,
        module="pipeline.stages.export",
    )
    add_path(stage, "--features", "folder that preprocess wrote", "data/RECIPE/features")
    add_path(stage, "--model", "folder that train wrote", "data/RECIPE/model")
    add_path(stage, "--output", "folder to write", "data/RECIPE/bundle")


def _apply(stages: Stages) -> None:
    def score(options: argparse.Namespace) -> None:
        from pipeline import scoring

        scoring.score(
            options.bundle,
            options.input,
            options.output,
            options.max_bad_fraction,
            options.id_column,
        )

    def recommend(options: argparse.Namespace) -> None:
        from pipeline import scoring

        scoring.recommend(
            options.bundle, options.input, options.output, options.k, options.max_bad_fraction
        )

    for name, summary, run, recipe in (
        ("score", "click probabilities for the rows of a raw click log", score, "ranking"),
        ("recommend", "next items for the sessions of a raw clickstream", recommend, "sessions"),
    ):
        stage = add_stage(
            stages,
            name,
            summary,
            run,
            recipes=(),
            settings=False,
            module="pipeline.scoring",
            lower="give it the log in parts, or export with lower source.workers and block_bytes",
        )
        default = layout.folder(recipe, "bundle")
        stage.add_argument(
            "--bundle", type=Path, metavar="PATH", default=default, help=f"default: {default}"
        )
        stage.add_argument("--input", metavar="PATH", required=True, help="file, folder or glob")
        stage.add_argument(
            "--output", type=Path, metavar="FILE", required=True, help=".parquet or .csv"
        )
        stage.add_argument(
            "--max-bad-fraction",
            type=float,
            metavar="SHARE",
            default=SourceSettings().max_bad_fraction,
            help="share of bad lines that are left out before it fails (default: %(default)s)",
        )
        if name == "score":
            stage.epilog = SCORED
            stage.add_argument(
                "--id-column",
                metavar="NAME",
                action="append",
                default=[],
                help="column of the log to write with the probabilities, as it is, also one that "
                "the model does not read; may be given more than once",
            )
        if name == "recommend":
            stage.epilog = RECOMMENDED
            stage.add_argument(
                "-k",
                type=_at_least_one,
                default=20,
                help="items of each list, at most (default: 20)",
            )


def _at_least_one(text: str) -> int:
    """The value of an option that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def _tools(stages: Stages) -> None:
    def report(options: argparse.Namespace) -> None:
        from pipeline.stages.report import report

        report()

    def use(options: argparse.Namespace) -> None:
        from pipeline.stages.use import use

        use(options.recipe_file, source=options.source)

    plain = {"recipes": (), "interrupted": failures.NOTHING_WRITTEN}
    add_stage(
        stages,
        "report",
        "print what the metrics say",
        report,
        settings=False,
        module="pipeline.stages.report",
        **plain,
    )
    stage = add_stage(
        stages, "use", "put a recipe's settings into params.yaml", use, recipes=(), settings=False
    )
    stage.add_argument("recipe_file", metavar="FILE", help="such as recipes/rees46.yaml")
    stage.add_argument("--source", metavar="PATH", help="the log, for source.path: file or folder")
    stage = add_stage(
        stages, "settings", "check all settings; show them with their meanings", _settings, **plain
    )
    stage.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a recipe, a block or a setting: sessions, sessions.train, sessions.train.epochs",
    )
    stage.add_argument("--search", metavar="WORDS", help="settings with these words in their text")
    stage.add_argument(
        "--training",
        type=Path,
        metavar="FILE",
        help="write what training of the recipe NAME depends on, as JSON (for DVC)",
    )


def _settings(options: argparse.Namespace) -> None:
    from pipeline.stages.settings import show_settings, write_training_settings

    if options.training is None:
        show_settings(read_params(options), options.name, options.search)
    elif options.name in READ_RECIPES:
        write_training_settings(options.name, read_params(options), options.training)
    else:
        raise UserError(f"settings --training: name a recipe: {', '.join(READ_RECIPES)}")
