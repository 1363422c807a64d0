"""Points every output option of every stage at what it must not harm.

    python -m tests.harness.outputs [--only 'train --output' …] [--every K]

A playground holds a finished output of each stage and a user's own files: folders with names like
those that the stages write, notes inside of outputs, links, hard links, hidden neighbours. Each
stage is told to write to each place there. Before and after, the playground is compared by the
SHA-256 of every file and the target of every link:

- a run that ends with 0 leaves all that was there, but for an earlier output of the same stage at
  the place that it was told to write to; it can be run again;
- any other run leaves everything as it was, and says why in one line;
- what must be refused is refused, what is harmless is not.
"""

import argparse
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.kills import distinct
from tests.harness.operations import copied, scratch_folder, tree
from tests.harness.world import DASK, LAST_DAY, World, fault_of, print_table, without_random

REFUSE, ACCEPT, EITHER = "refuse", "accept", "either"
OUTPUTS = {
    **{
        f"data/{recipe}/{what}": what
        for recipe in ("ranking", "sessions")
        for what in ("generated", "raw", "features", "model", "bundle")
    },
    "data/ranking/profile": "profile",
    "data/ranking/compare": "compare",
    "data/sessions/windows": "windows",
    "plots/ranking": "plots",
    "plots/ranking-data": "data-plots",
    "plots/ranking-compare": "compare-plots",
    "plots/sessions-windows": "windows-plots",
}
"""The finished outputs of the playground that are folders, and their kinds."""
FILES = {
    "metrics/ranking.json": "metrics",
    "metrics/ranking-data.json": "data-metrics",
    "metrics/ranking-compare.json": "compare-metrics",
    "metrics/sessions-windows.json": "windows-metrics",
    "scores.csv": "scores",
    "next.csv": "lists",
}
ASKED = "logs/asked"
MOST_PARTS = 12
"""Changed folders up to which they alone are restored, not the whole playground."""
INNER = {
    "generated": "log",
    "features": "train",
    "model": "checkpoints",
    "bundle": "state",
    "compare": "runs",
    "windows": "day-1",
}
"""A folder inside of each kind that has one."""


@dataclass(frozen=True)
class Option:
    """An output option of a stage.

    Attributes:
        arguments: ``@`` is where the place comes; other outputs are named ``out/…``.
        kind: of what is written, as in ``OUTPUTS`` and ``FILES``.
        inputs: that the command reads.
        ending: of a file; empty: it is a folder.
    """

    name: str
    arguments: str
    kind: str
    inputs: tuple[str, ...] = ()
    ending: str = ""


def options() -> list[Option]:
    """All output options."""
    a = "--settings {w}/ranking-a.yaml"
    s = "--settings {w}/sessions-a.yaml"
    raw, features, model = (f"data/ranking/{what}" for what in ("raw", "features", "model"))
    judged = f"--features {features} --model {model}"
    ask, asked = ASKED, f"{ASKED}-sessions.csv"
    log = "data/ranking/generated/log"
    inspect = f"inspect ranking --raw {raw} --features {features}"
    compare = f"compare ranking {a} --features {features}"
    windows = f"windows sessions {s} --input data/sessions/raw"
    return [
        Option("generate --output", f"generate ranking {a} --output @", "generated"),
        Option("ingest --output", f"ingest ranking {a} --input {log} --output @", "raw", (log,)),
        Option(
            "preprocess --output", f"preprocess ranking {a} --input {raw} --output @", "features",
            (raw,),
        ),
        Option(
            "preprocess --grow --output",
            f"preprocess ranking {a} --input {raw} --grow --output @", "features", (raw,),
        ),
        Option("train --output", f"train ranking {a} --input {features} --output @", "model",
               (features,)),
        Option("profile --output", f"profile ranking {a} --input {features} --steps 1 --output @",
               "profile", (features,)),
        Option("export --output", f"export ranking {a} {judged} --output @", "bundle",
               (features, model)),
        Option("evaluate --plots", f"evaluate ranking {a} {judged} --metrics out/m.json --plots @",
               "plots", (features, model)),
        Option("evaluate --metrics", f"evaluate ranking {a} {judged} --metrics @ --plots out/plots",
               "metrics", (features, model), ".json"),
        Option("inspect --plots", f"{inspect} --output out/m.json --plots @", "data-plots",
               (raw, features)),
        Option("inspect --output", f"{inspect} --output @ --plots out/plots", "data-metrics",
               (raw, features), ".json"),
        Option("compare --output", f"{compare} --output @ --metrics out/m.json --plots out/plots",
               "compare", (features,)),
        Option("compare --plots", f"{compare} --output data/ranking/compare --metrics out/m.json"
               " --plots @", "compare-plots", (features, "data/ranking/compare")),
        Option("compare --metrics", f"{compare} --output data/ranking/compare --metrics @"
               " --plots out/plots", "compare-metrics", (features, "data/ranking/compare"),
               ".json"),
        Option("windows --output", f"{windows} --output @ --metrics out/m.json --plots out/plots",
               "windows", ("data/sessions/raw",)),
        Option("windows --plots", f"{windows} --output data/sessions/windows --metrics out/m.json"
               " --plots @", "windows-plots", ("data/sessions/raw", "data/sessions/windows")),
        Option("windows --metrics", f"{windows} --output data/sessions/windows --metrics @"
               " --plots out/plots", "windows-metrics",
               ("data/sessions/raw", "data/sessions/windows"), ".json"),
        Option("score --output", f"score --bundle data/ranking/bundle --input {ask} --output @",
               "scores", ("data/ranking/bundle", ask), ".csv"),
        Option("recommend --output",
               f"recommend --bundle data/sessions/bundle --input {asked} --output @", "lists",
               ("data/sessions/bundle", asked), ".csv"),
    ]  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where an option points to.

    Attributes:
        name: what it is, for tables.
        expected: whether the run is to be refused.
        replaced: what may be another at the end, relative to the playground; empty: nothing.
    """

    name: str
    path: str
    expected: str
    replaced: str = ""


def places(option: Option) -> Iterator[Place]:
    """All that an option is pointed at."""
    yield from _outputs(option)
    yield from _inputs(option)
    yield from _users(option)
    yield from _own(option)
    yield from _links(option)
    yield from _spelled(option)


def _is_grow(option: Option) -> bool:
    return "--grow" in option.name


def _outputs(option: Option) -> Iterator[Place]:
    """Other stages' outputs, and places inside of them."""
    for path, kind in {**OUTPUTS, **FILES}.items():
        if kind == option.kind and path not in option.inputs:
            # The features of sessions are of this kind too, but cannot grow by these rows.
            other = "sessions" in path and _is_grow(option)
            yield Place("own output", path, EITHER if other else ACCEPT, path)
        elif path not in option.inputs:
            yield Place("another stage's output", path, REFUSE)
        if path in OUTPUTS:
            # Metrics and plots may be inside of another output of the same command.
            mine = f"--output {path} " in f"{option.arguments} "
            expected, replaced = (EITHER, path) if mine else (REFUSE, "")
            end = option.ending
            yield Place("inside an output", f"{path}/new{end}", expected, replaced)
            if kind in INNER:
                deep = f"{path}/{INNER[kind]}/new{end}"
                yield Place("deep inside an output", deep, expected, replaced)
            yield Place("a folder inside an output", f"{path}/{INNER.get(kind, 'new')}", REFUSE)


def _inputs(option: Option) -> Iterator[Place]:
    for path in option.inputs:
        mine = f"--output {path} " in f"{option.arguments} "
        yield Place("an input", path, REFUSE)
        yield Place("an input, otherwise written", f"./data/../{path}/", REFUSE)
        yield Place("a link to an input", f"links/to-{path.replace('/', '-')}", REFUSE)
        if not mine:
            yield Place("inside an input", f"{path}/new{option.ending}", REFUSE)
        for parent in list(Path(path).parents)[:-1]:
            yield Place("around an input", str(parent), REFUSE)
    yield Place("the playground", ".", REFUSE)
    yield Place("around the playground", "..", REFUSE)


def _users(option: Option) -> Iterator[Place]:
    """A user's files and folders."""
    end = option.ending
    folders = ["user", "user/sub", "user/train", "user/checkpoints", "user/state", "user/log"]
    folders += ["user/runs", "user/day-1", "user/alike-features", "user/alike-model", "pictures"]
    for path in folders:
        yield Place("a user's folder", path, REFUSE)
    files = ["user/notes.txt", f"user/notes{end or '.csv'}", "user/manifest.json"]
    for path in [*files, "user/model.json", "user/empty.json", "user/metrics.json"]:
        yield Place("a user's file", path, REFUSE)
    yield Place("below a user's file", f"user/notes.txt/new{end}", REFUSE)
    grown = REFUSE if _is_grow(option) else ACCEPT
    yield Place("new, in a user's folder", f"user/new{end}", grown)
    yield Place("new, with hidden neighbours", f"hidden/fresh{end}", grown)
    if not end:
        yield Place("empty", "empty", grown, "empty")
        yield Place("a folder of empty folders", "nested", EITHER, "")
        yield Place("a user's empty folder", "user/vacant", grown, "user/vacant")
    if end == ".csv":
        yield Place("a hard link to the input", f"links/hard-{Path(option.inputs[-1]).name}{end}",
                    REFUSE)  # fmt: skip


def _own(option: Option) -> Iterator[Place]:
    """An earlier output of the stage to which the user did something."""
    if option.ending:
        yield Place("own output, a copy", f"own/{option.kind}{option.ending}", ACCEPT,
                    f"own/{option.kind}{option.ending}")  # fmt: skip
        return
    base = f"own/{option.kind}"
    for what in ("notes", "deep-notes", "folder", "like-ours", "inner-link", "inner-file-link"):
        yield Place(f"own output with {what}", f"{base}-{what}", REFUSE)
    for what in ("copy", "hard"):
        yield Place(f"own output, {what}", f"{base}-{what}", ACCEPT, f"{base}-{what}")
    yield Place("own output without a marker", f"{base}-unmarked", EITHER, f"{base}-unmarked")
    yield Place("own output with an empty marker", f"{base}-old", EITHER, f"{base}-old")
    yield Place("own output with notes, no marker", f"{base}-unmarked-notes", REFUSE)


def _links(option: Option) -> Iterator[Place]:
    end = option.ending
    grown = REFUSE if _is_grow(option) else ACCEPT
    yield Place("a dangling link", f"links/dangling{end}", REFUSE)
    yield Place("a link to itself", f"links/loop{end}", REFUSE)
    yield Place("below a link to itself", f"links/loop{end}/new{end}", REFUSE)
    yield Place("a link to a user's folder", "links/to-user", REFUSE)
    yield Place("a link to a user's file", f"links/to-file{end}", REFUSE)
    yield Place("new, below a link to a user's folder", f"links/to-user/newer{end}", grown)
    if not end:
        yield Place("a link to an empty folder", "links/to-empty", grown, "links/empty-target")
        yield Place("a link to an own output", f"links/to-own-{option.kind}", ACCEPT,
                    f"own/{option.kind}-linked")  # fmt: skip


def _spelled(option: Option) -> Iterator[Place]:
    """New places, written in several ways."""
    end = option.ending
    grown = REFUSE if _is_grow(option) else ACCEPT
    yield Place("new", f"fresh-1{end}", grown)
    yield Place("new, in new folders", f"fresh-2/a/b/c{end}", grown)
    yield Place("new, with dots", f"./user/../fresh-3{end}", grown)
    yield Place("new, absolute", f"{{case}}/fresh-4{end}", grown)
    yield Place("new, hidden", f".fresh-5{end}", grown)
    yield Place("new, odd characters", f"fresh_[6]_*é%{end}", grown)
    if not end:
        yield Place("new, with a slash", "fresh-7/", grown)
        yield Place("new, with many slashes", "fresh-8//", grown)


def twofold() -> list[Place]:
    """Whole commands whose outputs are in each other; the path is the command."""
    a, s = "--settings {w}/ranking-a.yaml", "--settings {w}/sessions-a.yaml"
    evaluate = f"evaluate ranking {a} --features data/ranking/features --model data/ranking/model"
    compare = f"compare ranking {a} --features data/ranking/features"
    windows = f"windows sessions {s} --input data/sessions/raw"
    found = [
        Place("metrics in plots", f"{evaluate} --metrics z/p/m.json --plots z/p", EITHER),
        Place("metrics deep in plots", f"{evaluate} --metrics z/p/q/m.json --plots z/p", EITHER),
        Place("metrics named as plots", f"{evaluate} --metrics z/p --plots z/p", REFUSE),
        Place("plots below metrics", f"{evaluate} --metrics z/p --plots z/p/q", REFUSE),
        Place("metrics named as a plot", f"{evaluate} --metrics z/p/roc.json --plots z/p", EITHER),
        Place(
            "metrics named as a marker", f"{evaluate} --metrics z/p/.merlin-pipeline --plots z/p",
            REFUSE,
        ),
    ]  # fmt: skip
    for name, command in (("compare", compare), ("windows", windows)):
        for what, m, p in (
            ("plots as output", "z/m.json", "z/r"),
            ("plots in output", "z/m.json", "z/r/page"),
            ("metrics in output", "z/r/m.json", "z/p"),
            ("both in output", "z/r/p/m.json", "z/r/p"),
            ("metrics as output", "z/r", "z/p"),
            ("output in plots", "z/m.json", "z"),
        ):
            same = what in ("plots as output", "metrics as output", "output in plots")
            text = f"{command} --output z/r --metrics {m} --plots {p}"
            found.append(Place(f"{name}: {what}", text, REFUSE if same else EITHER))
    return found


@dataclass
class Tally:
    """What came of one option."""

    option: str
    tries: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Playground:
    """The folder that all runs are in; restored after each that changed it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._build()
        self.base = world.keep("base")
        self.kind = ""

    def prepare(self, kind: str) -> None:
        """Makes it ready for options that write outputs of ``kind``."""
        if kind == self.kind:
            return
        self.kind = kind
        self.world.empty()
        self.world.put(self.base)
        self._own_outputs(kind)
        self.kept = self.world.keep("playground")
        self.before = tree(self.world.case)

    def _build(self) -> None:
        world, case = self.world, self.world.case
        world.empty()
        for recipe in ("ranking", "sessions"):
            (case / "data" / recipe).mkdir(parents=True)
            for what in ("generated", "raw", "features", "model", "bundle"):
                copied(world.inputs / f"{recipe}-{what}-a", case / "data" / recipe / what)
        (case / "logs").mkdir()
        for recipe, name in (("ranking", ASKED), ("sessions", f"{ASKED}-sessions.csv")):
            log = case / "data" / recipe / "generated" / "log" / LAST_DAY[recipe]
            shutil.copyfile(log, case / name)
        self._finish_stages()
        self._users_files()
        self._links()

    def _finish_stages(self) -> None:
        """Runs the stages whose outputs are not among the inputs."""
        made = {kind: path for path, kind in {**OUTPUTS, **FILES}.items()}
        for option in options():
            text = option.arguments.replace("@", made[option.kind])
            if option.kind in ("profile", "scores", "lists"):
                self.world.run_well(text)
            elif option.ending == ".json":
                plots = option.kind.replace("metrics", "plots")
                self.world.run_well(text.replace("out/plots", made[plots]))

    def _users_files(self) -> None:
        case = self.world.case
        user = case / "user"
        for name, text in {
            "notes.txt": "mine",
            "notes.csv": "a,b\n1,2\n",
            "notes.json": '{"mine": true}',
            "notes.parquet": "not even Parquet",
            "manifest.json": '{"shards": [], "mine": true}',
            "plan.json": '{"settings": {}, "raw": "", "code": ""}',
            "model.json": '{"recipe": "mine"}',
            "metrics.json": '{"rows": 1, "mine": 2}',
            "empty.json": "",
            "bundle.json": "{}",
            "index.html": "<p>mine</p>",
            "roc.json": "[1]",
            "sub/deep/notes.txt": "mine",
            "train/photo.png": "a photo",
            "checkpoints/step-000000001.safetensors": "mine",
            "state/state.json": "{}",
            "log/day_0": "mine",
            "runs/dlrm/seed-1/result.json": "{}",
            "day-1/features/view.json": "{}",
            "alike-features/plan.json": '{"settings": {}, "raw": "", "code": ""}',
            "alike-features/train/photo.png": "mine",
            "alike-model/model.json": '{"recipe": 1, "model": 1, "settings": 1, "features": 1}',
            "alike-model/thesis.docx": "mine",
        }.items():
            file = user / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (user / "vacant").mkdir()
        (case / "empty").mkdir()
        (case / "nested" / "a" / "b").mkdir(parents=True)
        (case / "pictures").mkdir()
        (case / "pictures" / "part-00000.parquet").write_text("a picture")
        hidden = case / "hidden"
        for end in ("", ".csv", ".json"):
            name = f".fresh{end}"
            for ending in (".old", ".partial", ".0123456789abcdef.partial"):
                folder = hidden / f"{name}{ending}"
                folder.mkdir(parents=True)
                (folder / "mine.txt").write_text("mine")
            for ending in (".lock", ".tmp", ".1234.partial", ".bak"):
                (hidden / f"{name}{ending}").write_text("mine")

    def _own_outputs(self, kind: str) -> None:
        """Copies of an output, to which a user did something."""
        case = self.world.case
        (case / "own").mkdir()
        (case / "safe").mkdir()
        path = next(path for path, one in {**OUTPUTS, **FILES}.items() if one == kind)
        if path in FILES:
            shutil.copyfile(case / path, case / "own" / f"{kind}{Path(path).suffix}")
            return
        inner = INNER.get(kind)
        for what, change in {
            "copy": lambda at: None,
            "linked": lambda at: None,
            "notes": lambda at: (at / "notes.txt").write_text("mine"),
            "deep-notes": lambda at: _write(at / (inner or "a") / "notes.txt"),
            "folder": lambda at: _write(at / "mine" / "deep" / "notes.txt"),
            "like-ours": lambda at: _write(at / "manifest.json.bak"),
            "inner-link": lambda at: _link_folder(at, inner, case / "safe"),
            "inner-file-link": lambda at: _link_file(at, case / "safe"),
            "hard": lambda at: _link_hard(at, case / "safe"),
            "unmarked": _remove_markers,
            "old": lambda at: (at / ".merlin-pipeline").write_text(""),
            "unmarked-notes": lambda at: (_remove_markers(at), _write(at / "notes.txt")),
        }.items():
            at = case / "own" / f"{kind}-{what}"
            copied(case / path, at)
            change(at)

    def _links(self) -> None:
        case = self.world.case
        links = case / "links"
        links.mkdir()
        (links / "empty-target").mkdir()
        (links / "to-empty").symlink_to("empty-target")
        (links / "to-user").symlink_to(case / "user")
        for end in ("", ".csv", ".json"):
            (links / f"dangling{end}").symlink_to("nowhere")
            (links / f"loop{end}").symlink_to(f"loop{end}")
            (links / f"to-file{end}").symlink_to(f"../user/notes{end or '.txt'}")
        for path in {path for option in options() for path in option.inputs}:
            (links / f"to-{path.replace('/', '-')}").symlink_to(case / path)
            if (case / path).is_file():
                os.link(case / path, links / f"hard-{Path(path).name}.csv")
        for kind in set(OUTPUTS.values()):
            (links / f"to-own-{kind}").symlink_to(case / "own" / f"{kind}-linked")

    def restore(self) -> None:
        """Makes the playground what it was."""
        after = tree(self.world.case)
        names = self.before.keys() | after.keys()
        changed = [name for name in names if self.before.get(name) != after.get(name)]
        parts = {"/".join(name.split("/")[:2]) for name in changed}
        tops = {part for part in parts if part.split("/")[0] not in parts}
        linked = any("hard" in part or part.startswith("logs") for part in tops)
        self._empty_tmp()
        if linked or len(parts) > MOST_PARTS:
            self.world.empty()
            self.world.put(self.kept)
            return
        for part in parts:
            for folder, ours in ((self.world.case, True), (self.kept, False)):
                one = folder / part
                if ours and os.path.lexists(one):
                    shutil.rmtree(one) if one.is_dir() and not one.is_symlink() else one.unlink()
                elif not ours and os.path.lexists(one):
                    (self.world.case / part).parent.mkdir(parents=True, exist_ok=True)
                    copied(one, self.world.case / part)
        for part in {part.split("/")[0] for part in parts}:
            if not os.path.lexists(self.kept / part) and (self.world.case / part).is_dir():
                shutil.rmtree(self.world.case / part)

    def _empty_tmp(self) -> None:
        for entry in os.scandir(self.world.tmp):
            shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)

    def attempt(self, text: str, place: Place, allowed: Sequence[str]) -> tuple[str, list[str]]:
        """Runs a command; how it ended, and what is wrong.

        Args:
            allowed: names at and below which something may be made.
        """
        world = self.world
        faults = []
        ended = world.run(text, roots=())
        after = tree(world.case)
        if ended.status != 0:
            changed = _changes(self.before, after, "")
            faults += [f"failed, but {', '.join(changed)}"] if changed else []
            if place.expected == ACCEPT:
                faults.append(
                    f"refused: {ended.errors[0] if ended.errors else ended.output[-200:]}"
                )
        else:
            faults += _changes(self.before, after, place.replaced, allowed)
            if place.expected == REFUSE:
                faults.append("accepted")
        fault = fault_of(ended)
        if fault:
            faults.append(fault)
        left = [name for name in tree(world.tmp) if name not in DASK]
        if left:
            faults.append(f"left in TMPDIR: {', '.join(left[:3])}")
        if ended.status == 0 and not faults:
            again = world.run(text, roots=())
            if again.status != 0 or fault_of(again):
                faults.append(f"a second time: {again.output.strip()[-300:]}")
            changed = _changes(self.before, tree(world.case), place.replaced, allowed)
            faults += [f"a second time: {what}" for what in changed]
        if ended.status == 0 or after != self.before or left:
            self.restore()
            if tree(world.case) != self.before:
                raise RuntimeError(f"not restored: {_changes(self.before, tree(world.case), '')}")
        return {0: "ended with 0", 1: "refused"}.get(ended.status, "otherwise"), faults


def _write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")


def _remove_markers(at: Path) -> None:
    for marker in at.rglob(".merlin-pipeline"):
        marker.unlink()


def _link_folder(at: Path, inner: str | None, safe: Path) -> None:
    """Moves a folder of the output elsewhere, and puts a link in its place."""
    target = safe / f"{at.name}-moved"
    if inner and (at / inner).is_dir():
        shutil.move(at / inner, target)
        (at / inner).symlink_to(target)
    else:
        target.mkdir()
        _write(target / "notes.txt")
        (at / "linked").symlink_to(target)


def _plain_files(at: Path) -> list[Path]:
    files = [path for path in sorted(at.rglob("*")) if path.is_file() and not path.is_symlink()]
    return [path for path in files if path.name != ".merlin-pipeline"]


def _link_file(at: Path, safe: Path) -> None:
    """Moves the first file of the output elsewhere, and puts a link in its place."""
    file = _plain_files(at)[0]
    target = safe / f"{at.name}-{file.name}"
    shutil.move(file, target)
    file.symlink_to(target)


def _link_hard(at: Path, safe: Path) -> None:
    """Links all files of the output into a folder of the user's."""
    for file in _plain_files(at):
        target = safe / at.name / file.relative_to(at)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)


def _changes(
    before: dict[str, str], after: dict[str, str], replaced: str, allowed: Sequence[str] = ()
) -> list[str]:
    """What a run did that it may not.

    Args:
        replaced: at and below which anything may change.
        allowed: at and below which something may be made.
    """

    def is_below(name: str, places: Sequence[str]) -> bool:
        return any(place and (name == place or name.startswith(f"{place}/")) for place in places)

    told = []
    for name, value in before.items():
        if is_below(name, [replaced]):
            continue
        if name not in after:
            told.append(f"{name} is gone")
        elif after[name] != value:
            told.append(f"{name} was changed")
    for name in after.keys() - before.keys():
        parents = [f"{place}/".startswith(f"{name}/") for place in allowed]
        if not is_below(name, [replaced, *allowed]) and not any(parents):
            told.append(f"{name} was made")
    return sorted(told)[:4]


def try_option(playground: Playground, option: Option, every: int, first: int) -> Tally:
    """Points one option at every K-th place."""
    tally = Tally(option.name)
    playground.prepare(option.kind)
    case = playground.world.case
    seen = set()
    for number, place in enumerate(places(option)):
        if place.path in seen or number % every != first % every:
            continue
        seen.add(place.path)
        path = place.path.replace("{case}", str(case))
        text = option.arguments.replace("@", path)
        real = os.path.relpath(os.path.realpath(case / path), case)
        allowed = [real, "out"]
        if option.kind.startswith("compare-"):
            allowed.append("data/ranking/compare")
        if option.kind.startswith("windows-"):
            allowed.append("data/sessions/windows")
        how, faults = playground.attempt(text, place, allowed)
        tally.tries += 1
        tally.ended[how] += 1
        for fault in faults:
            told = without_random(fault.replace(str(case), "<case>"))
            tally.faults.append(f"{place.name}: {told} [at {place.path}]")
    return tally


def try_twofold(playground: Playground) -> Tally:
    """Runs the commands whose outputs are in each other."""
    tally = Tally("outputs in each other")
    playground.prepare("plots")
    for place in twofold():
        how, faults = playground.attempt(place.path, place, ["z"])
        tally.tries += 1
        tally.ended[how] += 1
        for fault in faults:
            tally.faults.append(f"{place.name}: {without_random(fault)} [at {place.path}]")
    return tally


def try_all(
    folder: Path,
    only: Sequence[str] = (),
    every: int = 1,
    told: Callable[[str], None] = lambda line: None,
    world: World | None = None,
) -> list[Tally]:
    """Points the options at every K-th place; ``only`` narrows to options by the beginning."""
    playground = Playground(world or World(folder))
    tallies = []
    for number, option in enumerate(options()):
        if only and not any(option.name.startswith(one) for one in only):
            continue
        tallies.append(try_option(playground, option, every, number))
        _tell(tallies[-1], told)
    if not only or "twofold" in only:
        tallies.append(try_twofold(playground))
        _tell(tallies[-1], told)
    return tallies


def _tell(tally: Tally, told: Callable[[str], None]) -> None:
    told(row(tally))
    for fault in distinct(tally.faults):
        told(f"    {fault}")


HEADER = f"{'option':<27} {'tries':>6} {'ended with 0':>12} {'refused':>8} {'faults':>7}"


def row(tally: Tally) -> str:
    return (
        f"{tally.option:<27} {tally.tries:>6} {tally.ended['ended with 0']:>12}"
        f" {tally.ended['refused']:>8} {len(tally.faults):>7}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="OPTION")
    parser.add_argument("--every", type=int, default=1, help="K-th place (default: 1)")
    given = parser.parse_args()
    with scratch_folder("outputs-") as folder:
        tallies = try_all(folder, given.only, given.every, lambda line: print(line, flush=True))
    return print_table(HEADER, map(row, tallies), tallies)


if __name__ == "__main__":
    sys.exit(main())
