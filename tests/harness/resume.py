"""Kills trainings with SIGKILL at random moments and compares what the next runs end in.

    python -m tests.harness.resume --kills 20

For each family (DLRM with dropout, XLNet; both with shuffled rows) an undisturbed
``merlin-pipeline train`` on a generated log is timed. Then the same command is given on a fresh
folder and its process group killed after a random part of that time; the run that goes on from the
checkpoint is killed again, and so forth, until one gets to the end. All files must then have the
bytes of the undisturbed run: weights, curve, and the last checkpoints with the state of both
optimizers, schedule and random generators. Checkpoints are written every few steps, and some of
the kills wait until one is being written.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.kill import Runner, all_bytes, compare

PRELOAD = [
    "pipeline.__main__",
    "pipeline.stages.train",
    "training.engine",
    "training.ranking.click_model",
    "training.ranking.dlrm",
    "training.sessions.xlnet",
    "training.sessions.fitting",
    "merlin.models.torch",
    "transformers4rec.torch",
]
"""Imported once, in the server that the runs are forked from: kills then hit work, not imports."""
AGAIN = 0.5
"""Chance that a run that goes on is killed too."""

AIMED = 0.4
"""Share of the kills that wait until a file is being written."""

SETTINGS = {
    "ranking": """
cluster: {kind: threads, workers: 1}
ranking:
  source: {path: null}
  generate: {rows: 6000, days: 5, seed: 1}
  dlrm: {embedding_dim: 8, bottom_mlp: [32, 16], top_mlp: [32, 16], dropout: 0.2}
  train:
    epochs: 2
    batch_size: 64
    optimizer: adam
    table_optimizer: adagrad
    warmup_steps: 20
    decay: plateau
    validate_every: 0.25
    patience: null
    checkpoint_every_steps: 3
    threads: 1
""",
    "sessions": """
cluster: {kind: threads, workers: 1}
sessions:
  source: {path: null}
  generate: {sessions: 1500, items: 60, days: 5, seed: 1}
  xlnet: {d_model: 16, layers: 1, heads: 2, dropout: 0.2, max_length: 10}
  train:
    epochs: 3
    batch_size: 32
    warmup_steps: 10
    decay: cosine
    validate_every: 1.0
    patience: null
    checkpoint_every_steps: 3
    threads: 1
""",
}


@dataclass
class Tally:
    """What the kills of one family led to."""

    family: str
    seconds: float
    """Of the undisturbed run."""
    kills: int = 0
    writing: int = 0
    """Of these, how many left a half-written file."""
    runs: int = 0
    """To the end, after at least one kill each."""
    most_kills: int = 0
    """Of one run to the end."""
    files_compared: int = 0
    faults: list[str] = field(default_factory=list)


def prepare(runner: Runner, folder: Path, recipe: str) -> list[str]:
    """Makes the features of one recipe; the arguments of its training, but for the output."""
    settings = folder / f"{recipe}.yaml"
    settings.write_text(SETTINGS[recipe])
    places = [folder / recipe / name for name in ("generated", "raw", "features")]
    given = ["--settings", str(settings)]
    for stage, source, output in (
        ("generate", None, places[0]),
        ("ingest", places[0] / "log", places[1]),
        ("preprocess", places[1], places[2]),
    ):
        come_from = ["--input", str(source)] if source else []
        arguments = [stage, recipe, *given, *come_from, "--output", str(output)]
        if runner.run(arguments) != 0:
            raise RuntimeError(f"{stage} {recipe} failed")
    return ["train", recipe, *given, "--input", str(places[2])]


def try_family(
    runner: Runner,
    recipe: str,
    folder: Path,
    kills: int,
    draw: random.Random,
    told: Callable[[str], None],
) -> Tally:
    """Kills trainings until ``kills`` kills have landed, each series ended by a whole run."""
    arguments = prepare(runner, folder, recipe)
    reference, output = folder / f"{recipe}-whole", folder / f"{recipe}-killed"
    begin = time.monotonic()
    if runner.run([*arguments, "--output", str(reference)]) != 0:
        raise RuntimeError(f"train {recipe}: the undisturbed run failed")
    tally = Tally(recipe, time.monotonic() - begin)
    expected = all_bytes(reference)
    while tally.kills < kills:
        shutil.rmtree(output, ignore_errors=True)
        landed = 0
        status: int | None = None
        while status is None:
            last = landed and (draw.random() >= AGAIN or tally.kills >= kills)
            after = None if last else draw.uniform(0, tally.seconds)
            aimed = draw.random() < AIMED

            def ready(aimed: bool = aimed) -> bool:
                return not aimed or half_written(output)

            status = runner.run([*arguments, "--output", str(output)], after, ready)
            if status is None:
                landed += 1
                tally.kills += 1
                tally.writing += half_written(output)
        tally.runs += bool(landed)
        tally.most_kills = max(tally.most_kills, landed)
        compared, faults = compare(status, expected, output)
        tally.files_compared += compared
        tally.faults += faults
        told(f"{recipe}: {tally.kills} kills, {len(tally.faults)} faults")
    return tally


def half_written(folder: Path) -> bool:
    """Whether a file is being written there, or was when its writer was killed."""
    return any(folder.rglob("*.partial"))


def try_all(
    kills: int,
    seed: int,
    only: Sequence[str] = tuple(SETTINGS),
    told: Callable[[str], None] = lambda line: None,
) -> list[Tally]:
    """Kills the trainings of each family ``kills`` times."""
    draw = random.Random(seed)
    runner = Runner(PRELOAD)
    with tempfile.TemporaryDirectory(prefix="resume-") as folder:
        return [
            try_family(runner, recipe, Path(folder), kills, draw, told)
            for recipe in SETTINGS
            if recipe in only
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="of each family (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    options = parser.parse_args()
    tallies = try_all(options.kills, options.seed, options.only, print)
    print("\nfamily     s a run  kills  while writing  runs to the end  most in one  files  faults")
    for tally in tallies:
        print(
            f"{tally.family:<10} {tally.seconds:>7.1f} {tally.kills:>6} {tally.writing:>14}"
            f" {tally.runs:>16} {tally.most_kills:>12} {tally.files_compared:>6}"
            f" {len(tally.faults):>7}"
        )
    for tally in tallies:
        for fault in sorted(set(tally.faults)):
            print(f"  {tally.family}: {fault} ({tally.faults.count(fault)} times)")
    return int(any(tally.faults for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
