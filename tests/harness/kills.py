"""Kills every command at its file operations, and lets the disk be full there.

    python -m tests.harness.kills --most 20 [--only 'train ranking' …] [--every K] [--contents]

Each command runs on a fresh output, and over an older one of other settings or another log. Its
process group is killed just before an operation on a file or folder below its working folder or
TMPDIR (a write: in its middle); or from that operation on there is no room on the disk. Then:

- what is there is the old output or the new one, or nothing vouches for it; a command that reads it
  gives what it gives for the old or for the new one, or one error;
- the same command again ends well, in the bytes of a run that nobody disturbed;
- nothing temporary is left then, in the output, beside it, or in TMPDIR.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.operations import (
    CHANGE,
    CONTENT,
    FULL,
    FULL_ONCE,
    KILL,
    Operation,
    scratch_folder,
    tree,
)
from tests.harness.world import (
    Command,
    World,
    below,
    commands,
    fault_of,
    finished,
    is_vouched_for,
    print_table,
    same_states,
    without_random,
)

ACTIONS = {"kill": KILL, "full": FULL, "once": FULL_ONCE}
"""full: no room from an operation on; once: at that one only."""
READ = ("read", "read.csv")
KEEPS_RUNS = ("runs", "days")
"""Outputs that keep the finished runs of earlier ones too."""
SCRATCH_KEPT = {"ingest", "grow"}
"""Commands that keep finished parts beside the output, for the next run, when the disk is full."""


@dataclass
class Tally:
    """What came of the kills of one command."""

    command: str
    action: str
    over: str
    operations: int = 0
    tries: int = 0
    whole: int = 0
    """Tries after which the old or the new output was there, whole."""
    read: int = 0
    """States that a command read."""
    faults: list[str] = field(default_factory=list)

    def add(self, fault: str, operation: Operation | None, number: int, case: Path) -> None:
        at = operation.told(case) if operation else "its end"
        self.faults.append(without_random(f"{fault} [at {at}]") + f" (operation {number})")


@dataclass
class Known:
    """What the undisturbed runs of a command give.

    Attributes:
        trees: the outputs, older ones first.
        loose: files that no two runs have in common, as they hold times.
        read: what the reader gives for each of them.
    """

    trees: list[dict[str, str]]
    loose: set[str]
    read: list[dict[str, str]]


class Killing:
    """The tries of one command over nothing, or over an older output."""

    def __init__(self, world: World, command: Command, over_older: bool) -> None:
        self.world, self.command = world, command
        self.older: Path | None = None
        if over_older:
            assert command.older is not None
            world.begin(command)
            world.run_well(command.older)
            self.older = world.keep("older")
        self.known = self._known()
        self._read: dict[str, str | None] = {}

    def _known(self) -> Known:
        world, command = self.world, self.command
        trees, read, twice = [], [], []
        for kept in [self.older] if self.older or command.start else []:
            world.begin(command, kept)
            trees.append(below(tree(world.case), command.outputs))
            read.append(self._reader_gives())
        for _ in range(2):
            world.begin(command, self.older)
            world.run_well(command.arguments)
            twice.append(below(tree(world.case), command.outputs))
        trees.append(twice[0])
        read.append(self._reader_gives())
        first, second = twice
        loose = {
            name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
        }
        if set(first) != set(second):
            raise RuntimeError(f"{command.name}: two runs make other files: {sorted(loose)}")
        return Known(trees, loose, read)

    def _reader_gives(self) -> dict[str, str]:
        if self.command.reader is None:
            return {}
        self.world.run_well(self.command.reader)
        return below(tree(self.world.case), READ)

    def operations(self, classes: int) -> list[Operation]:
        """Those of a run that nobody disturbs."""
        self.world.begin(self.command, self.older)
        return self.world.run_well(self.command.arguments, classes=classes).operations

    def attempt(self, number: int, action: str, classes: int, tally: Tally) -> None:
        """Disturbs a run at one operation, and looks at what comes of it."""
        world, command = self.world, self.command
        world.begin(command, self.older)
        ended = world.run(command.arguments, number, ACTIONS[action], classes)
        at = ended.operations[number - 1] if len(ended.operations) >= number else None

        def add(fault: str) -> None:
            tally.add(fault, at, number, world.case)

        if action == "kill":
            if ended.status is not None:
                return  # it ended before it came so far: threads do not always do the same
        elif ended.hung:
            add("hangs")
        elif ended.status == 0:
            if at is None:
                return
            self._check_end(lambda fault: add(f"ended with 0, but {fault}"))
        else:
            self._check_full(ended, action, add)
        tally.tries += 1
        self._check_state(add, tally)
        again = world.run(command.arguments)
        if again.status != 0:
            add(f"again: status {again.status}: {again.output.strip()[-400:]}")
            return
        if fault_of(again):
            add(f"again: {fault_of(again)}")
        self._check_end(lambda fault: add(f"again: {fault}"))

    def _check_full(self, ended, action: str, add: Callable[[str], None]) -> None:
        fault = fault_of(ended)
        if fault:
            add(f"full disk: {fault}")
        elif "no room" not in ended.output:
            add(f"full disk: does not say so: {ended.errors[0]}")
        name = self.command.name.split()[0]
        left = [
            one
            for one in self.world.leftovers(self._names())
            if not (name in SCRATCH_KEPT and one.split("/")[0].endswith(".partial"))
            and not (name in ("preprocess", "windows") and "/.work-" in one)
        ]
        # Where no file can be written or renamed any more, some clean-up fails too: the next run's.
        if left and action == "once":
            add(f"full disk: left behind: {', '.join(left[:3])}")

    def _check_end(self, add: Callable[[str], None]) -> None:
        """The output is the one of an undisturbed run, and nothing else is there."""
        world, command = self.world, self.command
        found = below(tree(world.case), command.outputs)
        expected = self.known.trees[-1]
        for name in sorted(found.keys() | expected.keys()):
            if name not in found:
                add(f"{name} is missing")
            elif name not in expected:
                add(f"{name} should not be there")
            elif found[name] != expected[name] and name not in self.known.loose:
                add(f"{name} differs from an undisturbed run's")
        left = world.leftovers(self._names())
        if left:
            add(f"left behind: {', '.join(left[:3])}")

    def _names(self) -> list[str]:
        return [*self.command.outputs, *self.command.start]

    def _check_state(self, add: Callable[[str], None], tally: Tally) -> None:
        """What is there is old, or new, or nothing vouches for it."""
        command, loose = self.command, self.known.loose
        found = below(tree(self.world.case), command.outputs)
        editions: list[set[int]] = []
        whole = 0
        for output in command.outputs:
            mine = finished(found, output)
            fits = {
                edition
                for edition, known in enumerate(self.known.trees)
                if same_states(mine, [finished(known, output)], loose)
            }
            if not fits and is_vouched_for(found, output):
                add(f"{output}: vouched for, but neither the old nor the new one")
            whole += bool(fits and mine)
            if fits and mine and output not in KEEPS_RUNS:
                editions.append(fits)
        tally.whole += whole == len(command.outputs)
        if command.metrics in found and not set.intersection(*editions, {0, 1}):
            add(f"{command.metrics} is beside plots of another run")
        self._check_reader(found, add, tally)

    def _check_reader(
        self, found: dict[str, str], add: Callable[[str], None], tally: Tally
    ) -> None:
        if self.command.reader is None:
            return
        key = repr(sorted(found.items()))
        if key not in self._read:
            tally.read += 1
            kept = self.world.keep("state")
            self._read[key] = self._reader_fault()
            self.world.empty()
            self.world.put(kept)
        fault = self._read[key]
        if fault:
            add(f"its reader: {fault}")

    def _reader_fault(self) -> str | None:
        ended = self.world.run(self.command.reader)
        if fault_of(ended) or ended.status:
            return fault_of(ended)
        read = below(tree(self.world.case), READ)
        if read not in self.known.read:
            return "gives what it gives neither for the old nor for the new output"
        return None


def needing_room(operations: Iterable[Operation]) -> list[Operation]:
    """Those that can fail on a full disk, which alone count there."""
    return [one for one in operations if one.name not in ("unlink", "remove", "rmdir")]


def numbers(count: int, every: int, most: int | None) -> list[int]:
    """The operations at which a run of ``count`` is disturbed, first and last among them."""
    chosen = list(range(1, count + 1, every))
    if most and len(chosen) > most:
        step = (len(chosen) - 1) / max(1, most - 1)
        chosen = sorted({chosen[round(place * step)] for place in range(most)})
    return chosen


def variants(command: Command) -> Iterable[tuple[str, bool]]:
    """Over what the command writes."""
    if command.start:
        yield "grown", False
    else:
        yield "nothing", False
    if command.older is not None:
        yield "older", True


def try_all(
    folder: Path,
    only: Sequence[str] = (),
    every: int = 1,
    most: int | None = None,
    contents: bool = False,
    actions: Sequence[str] = ("kill",),
    over: Sequence[str] = (),
    told: Callable[[str], None] = lambda line: None,
    world: World | None = None,
) -> list[Tally]:
    """Disturbs the commands; ``only`` narrows to commands such as ``train ranking``."""
    world = world or World(folder)
    classes = CHANGE | (CONTENT if contents else 0)
    tallies = []
    for command in commands().values():
        if only and not any(command.name.startswith(one) for one in only):
            continue
        for name, over_older in variants(command):
            if over and name not in over:
                continue
            try:
                killing = Killing(world, command, over_older)
                operations = killing.operations(classes)
            except RuntimeError as error:
                tallies.append(Tally(command.name, "–", name, faults=[without_random(str(error))]))
                told(f"{command.name} over {name}: {error}")
                continue
            for action in actions:
                counted = operations if action == "kill" else needing_room(operations)
                tally = Tally(command.name, action, name, len(counted))
                for number in numbers(len(counted), every, most):
                    killing.attempt(number, action, classes, tally)
                tallies.append(tally)
                told(f"{row(tally)}")
                for fault in distinct(tally.faults):
                    told(f"    {fault}")
    return tallies


def distinct(faults: Iterable[str]) -> list[str]:
    """Faults that differ in more than the operation, how often, and at which first."""
    counts: dict[str, list[str]] = {}
    for fault in faults:
        what = fault.rpartition(" [at ")[0] or fault
        counts.setdefault(what, []).append(fault.rpartition(" [at ")[2])
    return [f"{len(at)}×: {what} [first at {at[0]}" for what, at in counts.items()]


HEADER = (
    f"{'command':<21} {'over':<8} {'action':<6} {'operations':>10} {'tries':>6} {'whole':>6}"
    f" {'read':>5} {'faults':>7}"
)


def row(tally: Tally) -> str:
    return (
        f"{tally.command:<21} {tally.over:<8} {tally.action:<6} {tally.operations:>10}"
        f" {tally.tries:>6} {tally.whole:>6} {tally.read:>5} {len(tally.faults):>7}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="COMMAND")
    parser.add_argument("--every", type=int, default=1, help="K-th operation (default: 1)")
    parser.add_argument("--most", type=int, help="tries of each command, spread over its run")
    parser.add_argument("--contents", action="store_true", help="also at writes and syncs")
    parser.add_argument("--actions", nargs="*", default=["kill", "full"], choices=list(ACTIONS))
    parser.add_argument("--over", nargs="*", default=[], choices=["nothing", "older", "grown"])
    options = parser.parse_args()
    with scratch_folder("kills-") as folder:
        tallies = try_all(
            folder,
            options.only,
            options.every,
            options.most,
            options.contents,
            options.actions,
            options.over,
            lambda line: print(line, flush=True),
        )
    return print_table(HEADER, map(row, tallies), tallies)


if __name__ == "__main__":
    sys.exit(main())
