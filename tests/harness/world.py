"""Tiny inputs of every stage, and the commands that the harnesses of outputs run on them.

A :class:`World` is a folder with logs, raw Parquet, features, models and bundles, each in an
edition ``a`` and an edition ``b`` of another log or other settings. Commands run in the folder
``case`` with the temporary files of ``tmp``; both are emptied between tries.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness.operations import CHANGE, NOTHING, Ended, Running, Server, copied, tree

RANKING = """
device: cpu
cluster: {{kind: threads, workers: 1}}
ranking:
  generate: {{rows: 450, days: 3, seed: {seed}, threads: 1}}
  source: {{rows_per_shard: 150, workers: 1}}
  preprocess: {{rows_per_part: 150, workflow: {{freq_threshold: {threshold}}}}}
  model: logistic_regression
  train: {{epochs: 1, batch_size: 64, threads: 1, checkpoint_every_steps: 2,
          checkpoint_every_minutes: null, validate_every: 0.5, seed: {seed}}}
  compare: {{entries: {entries}, seeds: [1], splits: [test]}}
"""
SESSIONS = """
device: cpu
cluster: {{kind: threads, workers: 1}}
sessions:
  generate: {{sessions: 240, items: 40, days: 3, seed: {seed}}}
  source: {{rows_per_shard: 400, workers: 1}}
  preprocess: {{events_per_part: 500, workflow: {{item_freq_threshold: {threshold}}}}}
  model: sasrec
  sasrec: {{d_model: 8, layers: 1, heads: 1, max_length: 8}}
  train: {{epochs: 1, batch_size: 32, threads: 1, checkpoint_every_steps: 2,
          checkpoint_every_minutes: null, validate_every: 1.0, seed: {seed}}}
  compare: {{entries: {entries}, seeds: [1], splits: [test]}}
"""
EDITIONS: dict[str, dict[str, Any]] = {
    "a": {"seed": 42, "threshold": 3, "entries": {}},
    "b": {"seed": 43, "threshold": 2, "entries": {}},
}
ENTRIES = {
    "ranking": {"a": "[logistic_regression]", "b": "[fm]"},
    "sessions": {"a": "[sasrec]", "b": "[popular]"},
}
RECIPES = {"ranking": RANKING, "sessions": SESSIONS}
DASK = ("dask-scratch-space", "dask-scratch-space/global.lock", "dask-scratch-space/purge.lock")
"""What Dask keeps among the temporary files after every run, also one that nobody disturbed."""
VOUCHING = ("manifest.json", "model.json", "bundle.json", "profile.json")
"""Files that are written last, and vouch for all others of their folder."""


@dataclass(frozen=True)
class Command:
    """A subcommand as a harness runs it; in its texts ``{w}`` is the folder of inputs.

    Attributes:
        arguments: outputs are named relative to the folder ``case``.
        older: arguments of a run whose outputs are there before; None: there are none.
        outputs: files and folders that it writes, relative to ``case``.
        start: what is in ``case`` before: name there → name in the folder of inputs.
        reader: arguments of a command that reads the outputs, and writes to ``read`` in ``case``.
        metrics: the metrics file among the outputs, which may not be there beside plots of another
            run.
    """

    name: str
    arguments: str
    outputs: tuple[str, ...]
    older: str | None = None
    start: Mapping[str, str] = field(default_factory=dict)
    reader: str | None = None
    metrics: str | None = None


def commands() -> dict[str, Command]:
    """Every command that writes, by its name."""
    found = []
    for recipe in RECIPES:
        given = f"--settings {{w}}/{recipe}"
        base = f"{{w}}/{recipe}"
        a, b = f"{given}-a.yaml", f"{given}-b.yaml"
        ask = f"{base}-generated-a/log/{LAST_DAY[recipe]}"
        apply = "score" if recipe == "ranking" else "recommend"
        features = f"--features {base}-features-a"
        found += [
            Command(
                f"generate {recipe}",
                f"generate {recipe} {a} --output generated",
                ("generated",),
                f"generate {recipe} {b} --output generated",
                reader=f"ingest {recipe} {a} --input generated/log --output read",
            ),
            Command(
                f"ingest {recipe}",
                f"ingest {recipe} {a} --input {base}-generated-a/log --output raw",
                ("raw",),
                f"ingest {recipe} {a} --input {base}-generated-b/log --output raw",
                reader=f"preprocess {recipe} {a} --input raw --output read",
            ),
            Command(
                f"preprocess {recipe}",
                f"preprocess {recipe} {a} --input {base}-raw-a --output features",
                ("features",),
                f"preprocess {recipe} {b} --input {base}-raw-a --output features",
                reader=f"train {recipe} {a} --input features --output read",
            ),
            Command(
                f"grow {recipe}",
                f"preprocess {recipe} {a} --input {base}-raw-new --output features --grow",
                ("features",),
                start={"features": f"{recipe}-features-a"},
                reader=f"train {recipe} {a} --input features --output read",
            ),
            Command(
                f"train {recipe}",
                f"train {recipe} {a} --input {base}-features-a --output model",
                ("model",),
                f"train {recipe} {b} --input {base}-features-a --output model",
                reader=f"export {recipe} {a} {features} --model model --output read",
            ),
            Command(
                f"evaluate {recipe}",
                f"evaluate {recipe} {a} {features} --model {base}-model-a --metrics m.json"
                " --plots plots",
                ("m.json", "plots"),
                f"evaluate {recipe} {b} {features} --model {base}-model-b --metrics m.json"
                " --plots plots",
                metrics="m.json",
            ),
            Command(
                f"inspect {recipe}",
                f"inspect {recipe} --raw {base}-raw-a {features} --output d.json --plots page",
                ("d.json", "page"),
                f"inspect {recipe} --raw {base}-raw-b --features {base}-features-b"
                " --output d.json --plots page",
                metrics="d.json",
            ),
            Command(
                f"profile {recipe}",
                f"profile {recipe} {a} --input {base}-features-a --output profile --steps 2",
                ("profile",),
                f"profile {recipe} {b} --input {base}-features-a --output profile --steps 1",
            ),
            Command(
                f"export {recipe}",
                f"export {recipe} {a} {features} --model {base}-model-a --output bundle",
                ("bundle",),
                f"export {recipe} {b} {features} --model {base}-model-b --output bundle",
                reader=f"{apply} --bundle bundle --input {ask} --output read.csv",
            ),
            Command(
                apply,
                f"{apply} --bundle {base}-bundle-a --input {ask} --output scores.csv",
                ("scores.csv",),
                f"{apply} --bundle {base}-bundle-b --input {ask} --output scores.csv",
            ),
            Command(
                f"compare {recipe}",
                f"compare {recipe} {a} {features} --output runs --metrics c.json --plots page",
                ("runs", "c.json", "page"),
                f"compare {recipe} {b} {features} --output runs --metrics c.json --plots page",
                metrics="c.json",
            ),
        ]
    found.append(
        Command(
            "windows sessions",
            "windows sessions --settings {w}/sessions-a.yaml --input {w}/sessions-raw-a"
            " --output days --metrics w.json --plots page",
            ("days", "w.json", "page"),
            "windows sessions --settings {w}/sessions-b.yaml --input {w}/sessions-raw-a"
            " --output days --metrics w.json --plots page",
            metrics="w.json",
        )
    )
    return {command.name: command for command in found}


LAST_DAY = {"ranking": "day_2", "sessions": "events_day_2.csv"}


class World:
    """Inputs, a folder in which commands run, and the server that starts them.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        folder = folder.resolve()
        self.folder, self.inputs = folder, folder / "inputs"
        self.case, self.tmp, self.kept = folder / "case", folder / "tmp", folder / "kept"
        said = folder / "said"
        for one in (self.inputs, self.case, self.tmp, self.kept, said):
            one.mkdir()
        self.server = Server(said)
        self._make()

    # the inputs

    def _make(self) -> None:
        for recipe, text in RECIPES.items():
            for edition, values in EDITIONS.items():
                filled = text.format(**{**values, "entries": ENTRIES[recipe][edition]})
                (self.inputs / f"{recipe}-{edition}.yaml").write_text(filled)
            for edition in EDITIONS:
                self._make_edition(recipe, edition)
            log = self.inputs / f"{recipe}-generated-a" / "log"
            self._do(f"ingest {recipe}", recipe, "a", [log / LAST_DAY[recipe]], "raw-new")

    def _make_edition(self, recipe: str, edition: str) -> None:
        """Of edition b the features are of another log, model and bundle of the features a."""

        def made(what: str, of: str = edition) -> Path:
            return self.inputs / f"{recipe}-{what}-{of}"

        self._do(f"generate {recipe}", recipe, edition, [], f"generated-{edition}")
        first = [f for f in sorted((made("generated") / "log").iterdir()) if "day_2" not in f.name]
        self._do(f"ingest {recipe}", recipe, edition, first, f"raw-{edition}")
        self._do(f"preprocess {recipe}", recipe, edition, [made("raw")], f"features-{edition}")
        of = made("features", "a")
        self._do(f"train {recipe}", recipe, edition, [of], f"model-{edition}")
        export = f"export {recipe} --features {of} --model {made('model')}"
        self._do(export, recipe, edition, [], f"bundle-{edition}")

    def _do(
        self, command: str, recipe: str, edition: str, inputs: Sequence[Path], output: str
    ) -> None:
        settings = self.inputs / f"{recipe}-{edition}.yaml"
        arguments = [*command.split(), "--settings", str(settings)]
        if inputs:
            arguments += ["--input", *map(str, inputs)]
        arguments += ["--output", str(self.inputs / f"{recipe}-{output}")]
        ended = self.server.run(arguments, self.case, self.tmp)
        if ended.status != 0:
            raise RuntimeError(f"{' '.join(arguments)}: {ended.output}")

    # running

    def arguments(self, text: str) -> list[str]:
        """The arguments of a command."""
        return text.format(w=self.inputs).split()

    def start(
        self,
        text: str,
        number: int = 0,
        action: int = NOTHING,
        classes: int = CHANGE,
        roots: Iterable[Path] | None = None,
    ) -> Running:
        """Starts a command in ``case``; operations count that are below ``case`` and ``tmp``."""
        roots = (self.case, self.tmp) if roots is None else roots
        arguments = self.arguments(text)
        return self.server.start(arguments, self.case, self.tmp, roots, classes, number, action)

    def run(self, text: str, *args: Any, **more: Any) -> Ended:
        """Runs a command to its end; see :meth:`start`."""
        return self.start(text, *args, **more).wait()

    def run_well(self, text: str, **more: Any) -> Ended:
        """Runs a command that has to succeed.

        Raises:
            RuntimeError: it does not.
        """
        ended = self.run(text, **more)
        if ended.status != 0:
            raise RuntimeError(f"undisturbed: {text}: status {ended.status}: {ended.output}")
        return ended

    # the folder ``case``

    def empty(self) -> None:
        """Empties ``case`` and ``tmp``."""
        for folder in (self.case, self.tmp):
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)

    def begin(self, command: Command, older: Path | None = None) -> None:
        """Makes ``case`` what it is before ``command``, with an older output where one is given."""
        self.empty()
        for name, source in command.start.items():
            copied(self.inputs / source, self.case / name)
        if older is not None:
            self.put(older)

    def put(self, kept: Path) -> None:
        """Copies what :meth:`keep` kept into ``case``."""
        for entry in os.scandir(kept):
            copied(Path(entry.path), self.case / entry.name)

    def keep(self, name: str) -> Path:
        """Copies ``case`` aside; returns the copy."""
        target = self.kept / name
        if target.exists():
            shutil.rmtree(target)
        copied(self.case, target)
        return target

    def leftovers(self, known: Iterable[str]) -> list[str]:
        """What is in ``case`` and ``tmp`` beside the ``known`` names, and what is hidden there."""
        known = set(known)
        found = []
        for name in tree(self.case):
            parts = name.split("/")
            hidden = parts[-1].startswith(".") and parts[-1] != ".merlin-pipeline"
            if (len(parts) == 1 and name not in known) or hidden:
                found.append(name)
        found += [f"TMPDIR/{name}" for name in tree(self.tmp) if name not in DASK]
        return found


def without_random(name: str) -> str:
    """A path with the digits of random and process numbers replaced, so that faults are alike."""
    name = re.sub(r"\b[0-9a-f]{16}\b", "<random>", name)
    name = re.sub(r"/\S*?/(case|tmp|inputs)\b(?=[/: ,;]|$)", r"<\1>", name)
    name = re.sub(r"merlin-pipeline-\w{8}\.txt", "merlin-pipeline-<random>.txt", name)
    name = re.sub(r"\b(tmp|merlin-pipeline-dask-)\w{8}\b", r"\1<random>", name)
    name = re.sub(r"process \d+ on \S+ since \S+", "process N on M since T", name)
    return re.sub(r"\bdask-worker-space/worker-\w+|worker-\w{8,}", "worker-<random>", name)


def fault_of(ended: Ended) -> str | None:
    """What is wrong with how a run ended, whatever its outputs; None: nothing.

    Right is: exit status 0; or 1 and one line with an error that names no hidden file.
    """
    if ended.hung:
        return "hangs"
    if "Traceback" in ended.output:
        return f"traceback: {ended.output.strip().splitlines()[-1]}"
    if ended.status == 0:
        return None
    if ended.status != 1:
        return f"exit status {ended.status}: {ended.output.strip()[-300:]}"
    if len(ended.errors) != 1:
        return f"{len(ended.errors)} lines of errors: {ended.output.strip()[-300:]}"
    error = ended.errors[0]
    if "a fault of the program" in error:
        return error
    hidden = any(ending in error for ending in (".partial", ".old", ".work-"))
    if hidden and "no room left" not in error:
        return f"names a hidden file: {error}"
    return None


def same_states(
    found: dict[str, str], expected: Iterable[dict[str, str]], loose: Iterable[str] = ()
) -> bool:
    """Whether a tree is one of those expected, but for the bytes of the ``loose`` files."""
    loose = set(loose)

    def strict(one: dict[str, str]) -> dict[str, str]:
        return {name: "~" if name in loose else value for name, value in one.items()}

    return any(strict(found) == strict(one) for one in expected)


def below(found: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """The part of a tree that is at or below one of the names."""
    names = tuple(names)
    return {
        name: value
        for name, value in found.items()
        if any(name == one or name.startswith(f"{one}/") for one in names)
    }


def finished(found: Mapping[str, str], output: str) -> dict[str, str]:
    """An output without what may be more or less in one that is whole: its marker, checkpoints."""
    return {
        name: value
        for name, value in below(found, [output]).items()
        if not name.endswith("/.merlin-pipeline") and "/checkpoints" not in name
    }


def is_vouched_for(found: Mapping[str, str], output: str) -> bool:
    """Whether an output says that it is whole."""
    if f"{output}/" not in "".join(f"{name}/" for name in found):
        return output in found
    return any(f"{output}/{name}" in found for name in VOUCHING)


def print_table(header: str, rows: Iterable[str], tallies: Sequence[Any]) -> int:
    """Prints a row a tally and the sums of ``tries`` and ``faults``.

    Returns:
        The exit status.
    """
    print(f"\n{header}")
    for row in rows:
        print(row)
    print(f"{sum(t.tries for t in tallies)} tries, {sum(len(t.faults) for t in tallies)} faults")
    return int(any(tally.faults for tally in tallies))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
