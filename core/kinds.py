"""The kinds of folders that stages write, and what tells one that an older version wrote.

Every output folder has a marker that lists what was written (:mod:`core.outputs`). Older versions
wrote an empty marker or none: their folders are known by a file with certain keys and by the names
of all other files.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.artifacts import read_json
from core.errors import UserError

PART = r"part-\d{5}\.parquet"
STATE_FILES = r"state/(state\.json|\d\d-[a-z]+/([^/]+\.(parquet|json))?)"
"""Files, and the empty folders of operators that have none."""
WEIGHTS = r"model\.json|model\.safetensors|history\.csv"
CHECKPOINT = r"checkpoints/(step|best)-\d{9}\.safetensors"
OLD_PARTIAL = re.compile(r"\.(.+)\.\d+\.partial")
"""Temporary files of older versions, by process number."""


@dataclass(frozen=True)
class Kind:
    """A kind of output folder.

    Attributes:
        name: as its marker has it.
        stage: the subcommand that writes it.
        names: pattern of the relative names that an older version wrote.
        proof: sets of files, of which one set is in each folder that an older version wrote: the
            pattern of a name, and the keys that the JSON object in it has (none: anything).
        nested: whether folders below it are outputs with markers of their own.
        tracked: whether a data version control tracks files in it, and puts a ``.gitignore`` there.
    """

    name: str
    stage: str
    names: str
    proof: tuple[Mapping[str, tuple[str, ...]], ...] = ()
    nested: bool = False
    tracked: bool = False

    def wrote_before(self, folder: Path, names: Iterable[str]) -> bool:
        """Whether an older version wrote all of ``names``, the files of ``folder``."""
        names = list(names)
        if not all(map(self._fits, names)):
            return False
        return any(all(_proven(folder, names, *one) for one in s.items()) for s in self.proof)

    def _fits(self, name: str) -> bool:
        head, slash, last = name.rpartition("/")
        partial = OLD_PARTIAL.fullmatch(last)
        return (
            re.fullmatch(self.names, head + slash + (partial[1] if partial else last)) is not None
        )


def _proven(folder: Path, names: list[str], pattern: str, keys: tuple[str, ...]) -> bool:
    fitting = [name for name in names if re.fullmatch(pattern, name)]
    return any(not keys or has_keys(folder / name, keys) for name in fitting)


def has_keys(path: Path, keys: Iterable[str]) -> bool:
    """Whether a file is a JSON object with such keys."""
    try:
        record = read_json(path)
    except (OSError, UserError):
        return False
    return isinstance(record, dict) and set(keys) <= record.keys()


GENERATED = Kind(
    "generated log",
    "generate",
    r"manifest\.json|(truth|items|part-\d{5})\.parquet|profile_C\d+\.json"
    r"|log/(day_\d+(\.gz)?|events_day_\d+\.csv)",
    (
        {"manifest.json": ("format", "settings", "files", "truth")},
        {"manifest.json": ("settings", "rows", "shards", "bayes")},
    ),
)
RAW = Kind(
    "raw log",
    "ingest",
    rf"manifest\.json|{PART}|quarantine\.parquet",
    ({"manifest.json": ("rows_read", "rows_written", "inputs", "shards")},),
)
FEATURES = Kind(
    "features",
    "preprocess",
    rf"plan\.json|manifest\.json|schema\.json|(train|valid|test)/{PART}|{STATE_FILES}"
    r"|held_out/(held_out\.json|(raw|events|ratings|support)[-\d]*\.parquet)"
    r"|events/(\d{4}/\d{5}\.parquet|[a-z]+-\d{4}\.parquet|counts/.+)",
    ({"plan.json": ("settings", "raw", "code")},),
)
MODEL = Kind(
    "model",
    "train",
    rf"{WEIGHTS}|{CHECKPOINT}",
    ({"model.json": ("recipe", "model", "settings", "features")}, {CHECKPOINT: ()}),
    tracked=True,
)
PROFILE = Kind(
    "profile",
    "profile",
    r"profile\.json|trace\.json",
    ({"profile.json": ("recipe", "model", "precision")},),
)
BUNDLE = Kind(
    "bundle",
    "export",
    rf"bundle\.json|schema\.json|manifest\.json|{WEIGHTS}|{STATE_FILES}",
    ({"bundle.json": ("recipe", "preprocess", "source")},),
)
DATA_PLOTS = Kind(
    "page of a data report",
    "inspect",
    r"index\.html|(days|drift|unknown)\.json",
    ({name: () for name in (r"index\.html", r"days\.json", r"drift\.json", r"unknown\.json")},),
)
PLOTS = Kind(
    "plots",
    "evaluate",
    r"(roc|precision_recall|reliability|by_session_length|by_popularity|metrics)\.json",
    (
        {name: () for name in (r"roc\.json", r"precision_recall\.json", r"reliability\.json")},
        {name: () for name in (r"by_session_length\.json", r"by_popularity\.json")},
    ),
)
RUN_FILES = rf"(whole/)?((run|result|timing)\.json|{WEIGHTS}|{CHECKPOINT}|[a-z]+/[a-z_]+\.json)"
COMPARISON = Kind(
    "comparison",
    "compare",
    rf"plan/[^/]+\.json|runs/[^/]+/seed-\d+/{RUN_FILES}",
    (
        {r"runs/[^/]+/seed-\d+/run\.json": ("seed", "features", "code")},
        {r"plan/[^/]+\.json": ("model", "settings", "train", "splits")},
    ),
    nested=True,
    tracked=True,
)
PLAN = Kind(
    "plan of a comparison",
    "compare",
    r"[^/]+\.json",
    ({r"[^/]+\.json": ("model", "settings", "train", "splits")},),
)
RUN = Kind(
    "run of a comparison",
    "compare",
    RUN_FILES,
    ({r"run\.json": ("seed", "features", "code")},),
    nested=True,
    tracked=True,
)
COMPARISON_PAGE = Kind(
    "page of a comparison",
    "compare",
    r"index\.html|tables\.md|table\.csv|curves\.json",
    ({name: () for name in (r"index\.html", r"tables\.md", r"table\.csv", r"curves\.json")},),
)
WINDOWS = Kind(
    "windows",
    "windows",
    rf"day-\d+/((features|newest)/(view\.json|{FEATURES.names})|scratch/runs/[^/]+/seed-\d+/{RUN_FILES}"
    rf"|incremental/[^/]+/seed-\d+/(model/)?{RUN_FILES})",
    ({r"day-\d+/features/plan\.json": ("settings", "raw", "code")},),
    nested=True,
    tracked=True,
)
VIEW = Kind("view of features", "windows", rf"view\.json|{FEATURES.names}")
WINDOW_PLOTS = Kind(
    "plots of windows",
    "windows",
    r"by_day\.json|tables\.md",
    ({r"by_day\.json": (), r"tables\.md": ()},),
)
KINDS = (
    GENERATED,
    RAW,
    FEATURES,
    MODEL,
    PROFILE,
    BUNDLE,
    DATA_PLOTS,
    PLOTS,
    COMPARISON,
    PLAN,
    RUN,
    COMPARISON_PAGE,
    WINDOWS,
    VIEW,
    WINDOW_PLOTS,
)
