"""Runs both recipes under other environments and compares every written file, byte for byte.

    python -m tests.harness.environments

The whole chain of each recipe, from ``generate`` to ``score`` or ``recommend``, runs in a plain
environment and then in each of the others: without UTF-8, with other time zones, without a home
folder, in a narrow terminal, without standard output. A file that differs from the plain one is a
fault, and so is an exit status other than 0. Of ``profile``, which measures times, only the names
of the files are compared.
"""

import argparse
import hashlib
import locale
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = """
device: cpu
cluster: {workers: 2}
ranking:
  generate: {rows: 1500, days: 3, seed: 42}
  source: {rows_per_shard: 500}
  preprocess: {workflow: {freq_threshold: 3}}
  dlrm: {embedding_dim: 4, bottom_mlp: [8, 4], top_mlp: [8]}
  train: {epochs: 1, batch_size: 64}
sessions:
  generate: {sessions: 300, items: 60, days: 3, seed: 42}
  model: sasrec
  sasrec: {d_model: 8, layers: 1, heads: 2, max_length: 10}
  train: {epochs: 1, batch_size: 32}
"""
APPLY = {"ranking": "score", "sessions": "recommend"}
MEASURED = ("profile/profile.json", "profile/trace.json")
PLAIN = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "TERM": "xterm", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Environment:
    """What differs from the plain environment.

    Attributes:
        variables: None takes a variable away.
        redirect: for the shell.
    """

    name: str
    variables: dict[str, str | None] = field(default_factory=dict)
    redirect: str = ""

    def variables_of(self, base: dict[str, str]) -> dict[str, str]:
        """All variables."""
        both = {**base, **PLAIN, **self.variables}
        return {name: value for name, value in both.items() if value is not None}


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0"}


def environments() -> list[Environment]:
    """Those that are tried."""
    try:
        before = locale.setlocale(locale.LC_NUMERIC)
        locale.setlocale(locale.LC_NUMERIC, "de_DE.UTF-8")
        locale.setlocale(locale.LC_NUMERIC, before)
        last = Environment("LC_NUMERIC=de_DE", {"LC_ALL": None, "LC_NUMERIC": "de_DE.UTF-8"})
    except locale.Error:
        last = Environment("TERM=dumb", {"TERM": "dumb", "NO_COLOR": "1"})
    return [
        Environment("C locale, no UTF-8", C_LOCALE),
        Environment("Latin-1 output", {"PYTHONIOENCODING": "latin-1"}),
        Environment("TZ=Asia/Tokyo", {"TZ": "Asia/Tokyo"}),
        Environment("TZ=America/St_Johns", {"TZ": "America/St_Johns"}),
        Environment("no HOME", {"HOME": None}),
        Environment("COLUMNS=20", {"COLUMNS": "20"}),
        Environment("closed output", redirect=">&- 2>&-"),
        last,
    ]


EVERYTHING = Environment(
    "everything at once",
    {**C_LOCALE, "TZ": "America/St_Johns", "HOME": None, "COLUMNS": "20", "TERM": "dumb"},
    ">&-",
)


CHAIN = """
generate {recipe} --settings settings.yaml --output generated
ingest {recipe} --settings settings.yaml --input generated/log --output raw
preprocess {recipe} --settings settings.yaml --input raw --output features
inspect {recipe} --raw raw --features features --output data.json --plots data-plots
train {recipe} --settings settings.yaml --input features --output model
profile {recipe} --settings settings.yaml --input features --output profile --steps 3
evaluate {recipe} --settings settings.yaml --features features --model model --metrics metrics.json\
 --plots plots
export {recipe} --settings settings.yaml --features features --model model --output bundle
{apply} --bundle bundle --input generated/log --output answers.csv
"""


def chain(recipe: str) -> list[list[str]]:
    """The subcommands of a recipe, with files by names in the working folder."""
    lines = CHAIN.format(recipe=recipe, apply=APPLY[recipe]).strip().splitlines()
    return [line.split() for line in lines]


def run_chain(recipe: str) -> int:
    """Runs a recipe's subcommands in this process and working folder; the first status not 0."""
    from pipeline.__main__ import main

    for arguments in chain(recipe):
        status = main(arguments)
        if status:
            return status
    return 0


@dataclass
class Outcome:
    """What a chain wrote.

    Attributes:
        files: the hash of each file by name.
        faults: what differs from the plain environment.
    """

    seconds: float
    files: dict[str, str]
    faults: list[str]


def try_environment(environment: Environment, recipe: str, folder: Path) -> Outcome:
    """Runs a recipe's chain in a process of this environment.

    Args:
        folder: made for the chain, the same for each, since manifests name their inputs.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    command = [sys.executable, "-m", "tests.harness.environments", "--chain", recipe]
    begin = time.monotonic()
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {environment.redirect}', "sh", *command],
        cwd=folder,
        env=environment.variables_of({**os.environ, "PYTHONPATH": str(ROOT)}),
        capture_output=True,
        timeout=600,
    )
    faults = []
    if done.returncode:
        faults.append(f"exit status {done.returncode}: {done.stderr.decode(errors='replace')}")
    if b"Traceback" in done.stderr or b"Exception ignored" in done.stderr:
        faults.append(f"a traceback: {done.stderr.decode(errors='replace')}")
    return Outcome(time.monotonic() - begin, hashes(folder), faults)


def hashes(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder; of what holds times its name alone."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            measured = name in MEASURED
            found[name] = "" if measured else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differences(plain: dict[str, str], other: dict[str, str]) -> list[str]:
    """What differs between two runs."""
    return [
        f"{name} {'differs' if name in plain and name in other else 'is in one only'}"
        for name in sorted(plain.keys() | other.keys())
        if plain.get(name) != other.get(name)
    ]


def try_all(recipe: str, tried: list[Environment]) -> dict[str, Outcome]:
    """The chain in the plain environment, twice, and in each of the others."""
    with tempfile.TemporaryDirectory(prefix="environments-") as name:
        folder = Path(name) / "run"
        outcomes = {"plain": try_environment(Environment("plain"), recipe, folder)}
        for environment in tried:
            outcome = try_environment(environment, recipe, folder)
            outcome.faults += differences(outcomes["plain"].files, outcome.files)
            outcomes[environment.name] = outcome
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chain", metavar="RECIPE", help="run this chain here, and no more")
    parser.add_argument("--recipes", nargs="+", default=list(APPLY), choices=list(APPLY))
    options = parser.parse_args()
    if options.chain:
        return run_chain(options.chain)
    faults = 0
    print(f"{'recipe':<10}{'environment':<22}{'s':>6}{'files':>7}{'faults':>8}")
    for recipe in options.recipes:
        tried = [Environment("plain again"), *environments()]
        for name, outcome in try_all(recipe, tried).items():
            print(
                f"{recipe:<10}{name:<22}{outcome.seconds:>6.1f}{len(outcome.files):>7}"
                f"{len(outcome.faults):>8}",
                flush=True,
            )
            for fault in outcome.faults:
                print(f"    {fault}")
            faults += len(outcome.faults)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
