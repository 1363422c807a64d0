"""Runs every meaningful pair of commands at once on one folder.

    python -m tests.harness.pairs --most 20 [--only 'score while export' …]

A pair is two commands that write the same output, with other settings or another log; or one that
reads what the other replaces. The second starts at delays up to the length of the first; and, at
file operations of the one (of a reader: at the files that it opens), it is held until the other has
ended. Then:

- each ends with 0, and its output is that of an undisturbed run, of a reader on the old or the new
  input, whole; or it ends with 1 and one line with an error, which names no hidden file;
- what is there is what the two give one after the other, in one of both orders;
- nothing vouches for an output that is neither; nothing temporary is left;
- a plain run of one of them works then; of a reader that failed, also on the old input.
"""

import argparse
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.kills import KEEPS_RUNS, distinct, numbers
from tests.harness.operations import (
    CHANGE,
    PAUSE,
    READ,
    Ended,
    Operation,
    copied,
    scratch_folder,
    tree,
)
from tests.harness.world import (
    LAST_DAY,
    World,
    below,
    fault_of,
    finished,
    is_vouched_for,
    print_table,
    same_states,
    without_random,
)

PATIENCE = 3.0
"""Seconds after which the one that is held goes on, if the other waits for it."""
DELAYS = 0.34
"""Share of the tries that are by delays."""
AGAIN = 3
"""After every third try a plain run of one of the two is made."""


@dataclass(frozen=True)
class Side:
    """One of the two commands.

    Attributes:
        outputs: that it writes, relative to ``case``.
        reads: folders in ``case`` that it reads; none: it writes what the other writes.
    """

    arguments: str
    outputs: tuple[str, ...]
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two commands at once.

    Attributes:
        start: what is in ``case`` before: name there → name in the folder of inputs.
        before: commands that make more of it.
    """

    name: str
    first: Side
    second: Side
    start: Mapping[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()


def _editions(recipe: str) -> dict[str, str]:
    """Arguments of commands; ``@`` is where the edition comes."""
    base = f"{{w}}/{recipe}"
    given, features = f"--settings {base}-@.yaml", f"--features {base}-features-a"
    plain = f"--settings {base}-a.yaml"
    apply = "score" if recipe == "ranking" else "recommend"
    ask = f"{base}-generated-a/log/{LAST_DAY[recipe]}"
    judged = f"{features} --model {base}-model-@"
    return {
        "generate": f"generate {recipe} {given} --output generated",
        "ingest": f"ingest {recipe} {plain} --input {base}-generated-@/log --output raw",
        "preprocess": f"preprocess {recipe} {given} --input {base}-raw-a --output features",
        "grow": f"preprocess {recipe} {plain} --input {base}-raw-new --output features --grow",
        "train": f"train {recipe} {given} --input {base}-features-a --output model",
        "export": f"export {recipe} {given} {judged} --output bundle",
        "evaluate": f"evaluate {recipe} {given} {judged} --metrics m.json --plots plots",
        "compare": f"compare {recipe} {given} {features} --output runs --metrics c.json"
        " --plots page",
        apply: f"{apply} --bundle {base}-bundle-@ --input {ask} --output scores.csv",
    }


def _two(name: str, arguments: str, *outputs: str) -> Pair:
    """Both editions of a command at once."""
    first, second = (Side(arguments.replace("@", edition), outputs) for edition in "ab")
    return Pair(name, first, second)


OUTPUTS = {
    "generate": ("generated",),
    "ingest": ("raw",),
    "preprocess": ("features",),
    "grow": ("features",),
    "train": ("model",),
    "export": ("bundle",),
    "evaluate": ("m.json", "plots"),
    "compare": ("runs", "c.json", "page"),
    "score": ("scores.csv",),
    "recommend": ("scores.csv",),
}


def _writing_alike(recipe: str) -> list[Pair]:
    """Pairs that write the same output."""
    texts = _editions(recipe)
    found = [
        _two(f"{name}, {name} {recipe}", text, *OUTPUTS[name])
        for name, text in texts.items()
        if name != "grow"
    ]
    grow = Side(texts["grow"], ("features",))
    over = Side(texts["preprocess"].replace("@", "b"), ("features",))
    start = {"features": f"{recipe}-features-a"}
    found.append(Pair(f"grow, grow {recipe}", grow, grow, start))
    found.append(Pair(f"grow, preprocess {recipe}", grow, over, start))
    return found


def _reading(recipe: str) -> list[Pair]:
    """Pairs of which the first reads what the second writes."""
    texts = _editions(recipe)
    base = f"{{w}}/{recipe}"
    plain, features = f"--settings {base}-a.yaml", f"--features {base}-features-a"
    model = f"--model {base}-model-a"
    judged = ("m.json", "plots")
    apply = "score" if recipe == "ranking" else "recommend"
    ask = f"{base}-generated-a/log/{LAST_DAY[recipe]}"
    new_day = texts["ingest"].replace("-@/log", f"-b/log/{LAST_DAY[recipe]}")
    # reader, writer, what the reader reads, its arguments, its outputs
    rows = [
        (apply, "export", "bundle", f"--bundle bundle --input {ask} --output s.csv", ("s.csv",)),
        ("preprocess", "ingest", "raw", f"{recipe} {plain} --input raw --output f", ("f",)),
        (
            *("preprocess --grow", "ingest", "raw"),
            f"{recipe} {plain} --input raw --output features",
            ("features",),
        ),
        (
            *("export", "grow", "features"),
            f"{recipe} {plain} --features features {model} --output b",
            ("b",),
        ),
        (
            "export",
            "train",
            "model",
            f"{recipe} {plain} {features} --model model --output b",
            ("b",),
        ),
        (
            *("evaluate", "train", "model"),
            f"{recipe} {plain} {features} --model model --metrics m.json --plots plots",
            judged,
        ),
        (
            *("evaluate", "preprocess", "features"),
            f"{recipe} {plain} --features features {model} --metrics m.json --plots plots",
            judged,
        ),
        (
            "train",
            "preprocess",
            "features",
            f"{recipe} {plain} --input features --output m",
            ("m",),
        ),
        ("train", "grow", "features", f"{recipe} {plain} --input features --output m", ("m",)),
        (
            *("compare", "preprocess", "features"),
            f"{recipe} {plain} --features features --output runs --metrics c.json --plots page",
            ("runs", "c.json", "page"),
        ),
        (
            *("inspect", "ingest", "raw"),
            f"{recipe} --raw raw {features} --output d.json --plots page",
            ("d.json", "page"),
        ),
        (
            *("inspect", "preprocess", "features"),
            f"{recipe} --raw {base}-raw-a --features features --output d.json --plots page",
            ("d.json", "page"),
        ),
    ]
    found = []
    for reader, writer, what, arguments, outputs in rows:
        growing = reader.endswith("--grow")
        name = "grow" if growing else reader
        text = new_day if growing else texts[writer].replace("@", "b")
        # Raw of the start has to be of the same log for features that are made of it.
        start = {what: f"{recipe}-{what}-new" if growing else f"{recipe}-{what}-a"}
        if growing:
            start["features"] = f"{recipe}-features-a"
        found.append(
            Pair(
                f"{name} while {writer} {recipe}",
                Side(f"{reader} {arguments}", outputs, (what,)),
                Side(text, OUTPUTS[writer]),
                start,
            )
        )
    return found


def pairs() -> dict[str, Pair]:
    """All pairs by name."""
    found = []
    for recipe in ("ranking", "sessions"):
        found += _writing_alike(recipe) + _reading(recipe)
    windows = "windows sessions --settings {w}/sessions-@.yaml --output days --metrics w.json"
    windows += " --plots page --input "
    outputs = ("days", "w.json", "page")
    ingest = _editions("sessions")["ingest"]
    found += [
        _two("windows, windows", windows + "{w}/sessions-raw-a", *outputs),
        Pair(
            "windows while ingest",
            Side((windows + "raw").replace("@", "b"), outputs, ("raw",)),
            Side(ingest.replace("@", "b"), ("raw",)),
            before=(ingest.replace("@", "a"),),
        ),
    ]
    return {pair.name: pair for pair in found}


@dataclass
class Tally:
    """What came of a pair."""

    pair: str
    delayed: int = 0
    held: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    """How often which of the two ended with 0."""
    again: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def tries(self) -> int:
        return self.delayed + self.held


class Together:
    """The tries of one pair."""

    def __init__(self, world: World, pair: Pair) -> None:
        self.world, self.pair = world, pair
        self.sides = (pair.first, pair.second)
        self.outputs = tuple(dict.fromkeys((*pair.first.outputs, *pair.second.outputs)))
        world.empty()
        self.kept: Path | None = None
        self._begin()
        for text in pair.before:
            world.run_well(text)
        self.kept = world.keep("pair")
        self.known = {"": below(tree(world.case), self.outputs)}
        self.operations: list[list[Operation]] = []
        self.seconds: list[float] = []
        self.loose: set[str] = set()
        self.unfit: set[int] = set()
        """Which of the two fails after the other: its input is another then."""
        self._know()

    def _begin(self) -> None:
        self.world.empty()
        if self.kept is not None:
            self.world.put(self.kept)
            return
        for name, source in self.pair.start.items():
            copied(self.world.inputs / source, self.world.case / name)

    def _know(self) -> None:
        """What the two give alone, and one after the other."""
        world = self.world
        for order in ("0", "1", "01", "10"):
            self._begin()
            for which in map(int, order):
                begin = time.monotonic()
                ended = world.run(
                    self.sides[which].arguments,
                    classes=self._classes(which),
                    roots=self._roots(which),
                )
                if ended.status != 0:
                    if len(order) == 1 or fault_of(ended):
                        raise RuntimeError(f"alone ({order}): {ended.output.strip()[-300:]}")
                    self.unfit.add(which)
                if len(order) == 1:
                    self.seconds.append(time.monotonic() - begin)
                    self.operations.append(ended.operations)
            self.known[order] = below(tree(world.case), self.outputs)
        for which in "01":
            self._begin()
            world.run_well(self.sides[int(which)].arguments)
            twice = below(tree(world.case), self.outputs)
            once = self.known[which]
            self.loose |= {
                name for name in once.keys() | twice.keys() if once.get(name) != twice.get(name)
            }

    def _classes(self, which: int) -> int:
        return CHANGE | READ if self.sides[which].reads else CHANGE

    def _roots(self, which: int) -> list[Path]:
        """A reader is held at what it reads, a writer at all that it changes."""
        reads = self.sides[which].reads
        return [self.world.case / name for name in reads] if reads else [self.world.case]

    def delayed(self, which: int, seconds: float, tally: Tally) -> None:
        """Starts one of the two, and the other some time later."""
        self._begin()
        first = self.world.start(self.sides[which].arguments)
        time.sleep(seconds)
        second = self.world.start(self.sides[1 - which].arguments)
        ended = [first.wait(), second.wait()]
        tally.delayed += 1
        how = f"{self._name(1 - which)} {seconds:.2f} s after {self._name(which)}"
        self._look(ended if which == 0 else ended[::-1], how, tally)

    def held(self, which: int, number: int, tally: Tally) -> None:
        """Holds one of the two at an operation until the other has ended."""
        self._begin()
        first = self.world.start(
            self.sides[which].arguments, number, PAUSE, self._classes(which), self._roots(which)
        )
        if not first.wait_for_pause():
            first.wait()
            return
        second = self.world.start(self.sides[1 - which].arguments)
        until = time.monotonic() + max(PATIENCE, 3 * self.seconds[1 - which])
        while second.is_alive() and time.monotonic() < until:
            time.sleep(0.005)
        waited = second.is_alive()
        first.go_on()
        other = second.wait()
        mine = first.wait()
        at = mine.operations[number - 1] if len(mine.operations) >= number else None
        told = at.told(self.world.case) if at else "?"
        how = f"{self._name(which)} held at {told}" + (" (the other waited)" if waited else "")
        tally.held += 1
        self._look([mine, other] if which == 0 else [other, mine], how, tally)

    def _name(self, which: int) -> str:
        name = self.sides[which].arguments.split()[0]
        if "--grow" in self.sides[which].arguments:
            name = "grow"
        same = self.sides[0].arguments.split()[0] == self.sides[1].arguments.split()[0]
        return f"{name} {'ab'[which]}" if same else name

    def _look(self, ended: Sequence[Ended], how: str, tally: Tally) -> None:
        def add(fault: str) -> None:
            tally.faults.append(without_random(f"{fault} [at {how}]"))

        well = "".join(str(which) for which in (0, 1) if ended[which].status == 0)
        tally.ended[well] += 1
        for which in (0, 1):
            fault = fault_of(ended[which])
            if fault:
                add(f"{self._name(which)}: {fault}")
        if not well:
            errors = [without_random(error) for one in ended for error in one.errors]
            add(f"both failed: {' / '.join(errors)[:400]}")
        found = below(tree(self.world.case), self.outputs)
        self._check(found, well, add)
        left = self.world.leftovers([*self.outputs, *self.pair.start, *self._made_before()])
        if len(well) < 2:  # What preprocess goes on from is in its unfinished output.
            left = [name for name in left if "/.work-" not in name]
        if left:
            add(f"left behind: {', '.join(left[:3])}")
        if "0" not in well and self.sides[0].reads:
            self._with_old_input(add)
        elif tally.tries % AGAIN == 0:
            self._again(tally, add)

    def _made_before(self) -> list[str]:
        return [name for name in tree(self.kept) if "/" not in name] if self.kept else []

    def _check(self, found: dict[str, str], well: str, add: Callable[[str], None]) -> None:
        """Each output is one that the runs that ended well give."""
        orders = {"01": ("01", "10"), "0": ("0",), "1": ("1",), "": ("",)}[well]
        shared = set(self.sides[0].outputs) & set(self.sides[1].outputs)
        for output in self.outputs:
            mine = finished(found, output)
            # Finished runs of both are kept, also where one is refused later on.
            possible = ("0", "1", "01", "10") if output in KEEPS_RUNS else orders
            whole = [finished(self.known[order], output) for order in possible]
            if same_states(mine, whole, self.loose):
                continue
            by = [which for which in (0, 1) if output in self.sides[which].outputs]
            if not any(str(which) in well for which in by):
                # Nobody wrote it well: it may be gone, or unfinished.
                whole = [finished(one, output) for one in self.known.values()]
                if same_states(mine, whole, self.loose):
                    add(f"{output}: written, whole, by a run that ended with 1")
                elif is_vouched_for(found, output):
                    add(f"{output}: vouched for, but no run gives it")
                continue
            kind = "the shared output" if output in shared else "the output"
            add(f"{kind} {output} is none that an undisturbed run gives (ended well: {well})")

    def _with_old_input(self, add: Callable[[str], None]) -> None:
        """A reader that failed as its input was replaced goes on when the old input is back: with
        nothing that it made of the new one."""
        assert self.kept is not None
        case = self.world.case
        for name in self.sides[0].reads:
            shutil.rmtree(case / name)
            copied(self.kept / name, case / name)
        ended = self.world.run(self.sides[0].arguments)
        if ended.status != 0 or fault_of(ended):
            add(f"again, with the old input: {ended.output.strip()[-300:]}")
            return
        found = below(tree(case), self.outputs)
        for output in self.sides[0].outputs:
            whole = [finished(self.known["0"], output)]
            if not same_states(finished(found, output), whole, self.loose):
                add(f"again, with the old input: gives another {output}")

    def _again(self, tally: Tally, add: Callable[[str], None]) -> None:
        tally.again += 1
        which = tally.again % 2
        ended = self.world.run(self.sides[which].arguments)
        if ended.status != 0 or fault_of(ended):
            if which not in self.unfit or fault_of(ended):
                add(f"again, {self._name(which)}: {ended.output.strip()[-300:]}")
            return
        if "--grow" in self.sides[which].arguments:
            return  # it grew by another log as well
        found = below(tree(self.world.case), self.outputs)
        allowed = [self.known[str(which)], self.known["01"], self.known["10"]]
        for output in self.sides[which].outputs:
            whole = [finished(one, output) for one in allowed]
            if not same_states(finished(found, output), whole, self.loose):
                add(f"again, {self._name(which)}: gives another {output}")


def try_pair(
    world: World, pair: Pair, most: int, told: Callable[[str], None] = lambda line: None
) -> Tally:
    """Tries a pair about ``most`` times."""
    tally = Tally(pair.name)
    try:
        together = Together(world, pair)
    except RuntimeError as error:
        tally.faults.append(without_random(str(error)))
        return tally
    by_delay = max(1, round(most * DELAYS / 2))
    for which in (0, 1):
        for place in range(by_delay):
            share = place / max(1, by_delay - 1)
            together.delayed(which, share * together.seconds[which], tally)
        for number in numbers(len(together.operations[which]), 1, max(1, most // 2 - by_delay)):
            together.held(which, number, tally)
    told(row(tally))
    for fault in distinct(tally.faults):
        told(f"    {fault}")
    return tally


def try_all(
    folder: Path,
    only: Sequence[str] = (),
    most: int = 20,
    told: Callable[[str], None] = lambda line: None,
    world: World | None = None,
) -> list[Tally]:
    """Tries the pairs; ``only`` narrows to those whose name holds one of the texts."""
    world = world or World(folder)
    return [
        try_pair(world, pair, most, told)
        for pair in pairs().values()
        if not only or any(text in pair.name for text in only)
    ]


HEADER = (
    f"{'pair':<36} {'delayed':>7} {'held':>5} {'both':>5} {'first':>6} {'second':>7} {'none':>5}"
    f" {'again':>6} {'faults':>7}"
)


def row(tally: Tally) -> str:
    ended = tally.ended
    return (
        f"{tally.pair:<36} {tally.delayed:>7} {tally.held:>5} {ended['01']:>5} {ended['0']:>6}"
        f" {ended['1']:>7} {ended['']:>5} {tally.again:>6} {len(tally.faults):>7}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="TEXT")
    parser.add_argument("--most", type=int, default=20, help="tries of each pair (default: 20)")
    options = parser.parse_args()
    with scratch_folder("pairs-") as folder:
        print(HEADER, flush=True)
        tallies = try_all(folder, options.only, options.most, lambda line: print(line, flush=True))
    return print_table(HEADER, map(row, tallies), tallies)


if __name__ == "__main__":
    sys.exit(main())
