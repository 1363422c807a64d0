"""New days into features that exist: vocabularies are extended, statistics merged, old parts kept.

The grown folder is built beside the old one, with links to the old parts, and then takes its place
in one step: whoever reads, or kills this, sees the old state or the new one. A run that was killed
goes on from the parts that it finished.
"""

import ctypes
import dataclasses
import errno
import importlib
import os
import shutil
from pathlib import Path
from typing import Any

from core import cluster as dask_cluster
from core.artifacts import read_json, write_json
from core.cluster import ClusterSettings
from core.console import say
from core.errors import UserError
from core.frames import Device
from core.merlin import Workflow, schema_to_json
from core.settings import Settings
from pipeline import fitting, held_out, preprocess
from pipeline.held_out import HELD_OUT, Settled
from pipeline.params import settings_class
from pipeline.preprocess import COUNTS, EVENTS, MANIFEST, PLAN, SCHEMA, STATE, Job
from workflows.state import STATE_FILE, absorb, check_growable, load_state, save_state

MAY_DIFFER = ("split", "rows_per_part", "events_per_part")
"""Settings that may be others than those that the features were made with."""


def grow(
    recipe: str,
    raw: str | Path,
    features: str | Path,
    settings: Settings | None = None,
    cluster: ClusterSettings | None = None,
) -> dict[str, Any]:
    """Adds the raw Parquet in ``raw`` to the features in ``features``.

    The whole log, old and new, is split as if it were given at once. What validated or tested and
    is now too early for that trains from here on, so that no row of the fit is later than a row
    that is held out. Of the old log only the rows that were held out are read; what trains already
    stays as it is. No code moves: a value that reaches the threshold on all training rows together
    gets a code after all others. The statistics are those of all training rows.

    Args:
        recipe: that of the features.
        raw: new rows; shards that the features were made of are passed over.
        settings: those that ``features`` were made with; ``split`` may differ. None: the same.

    Returns:
        The manifest of the whole. Where ``raw`` is in ``features`` already, nothing is done.

    Raises:
        UserError: ``features`` are not whole, were made with other settings or cannot grow, or
            ``raw`` is laid out otherwise than what they were made of.
    """
    raw, features = Path(raw), Path(features)
    _finish_exchange(features)
    plan, before = _finished(features, recipe)
    made = settings_class(f"{recipe}.preprocess")(**plan["settings"])
    settings = _checked_settings(features, made, settings)
    settled = held_out.load(features, made.split)
    manifest = preprocess.raw_manifest(raw)
    digest = preprocess.log_digest(manifest)
    fresh = _fresh(raw, manifest, settled)
    if digest in (plan["raw"], *plan.get("grown", ())) or not fresh["shards"]:
        say(f"grow: {raw} is in {features} already; nothing to do")
        shutil.rmtree(_staging(features), ignore_errors=True)
        return before
    recipes = importlib.import_module(f"pipeline.preprocess_{recipe}")
    check_growable(recipes.workflow(settings, list(manifest["columns"])))
    staging = _staging(features)
    staged = {
        **plan,
        "settings": settings.model_dump(mode="json"),
        "grown": [*plan.get("grown", ()), digest],
    }
    preprocess.begin(staging, staged)
    cluster = cluster or ClusterSettings()
    with dask_cluster.start(cluster) as client:
        device = dask_cluster.device_of(client, cluster)
        job = recipes.prepare(client, raw, fresh, settings, staging / EVENTS, settled)
        job = _numbered_on(job, before)
        workflow = _merged(client, job, features, staging, device)
        needed = ("valid",) if settings.split.valid else ()
        grown = preprocess.apply(client, workflow, job, staging, needed, device)
        held_out.save(staging / HELD_OUT, recipe, fresh, job.hold_out, settled)
    shutil.rmtree(staging / EVENTS, ignore_errors=True)
    for split in job.stays:
        _link_parts(features / split, staging / split)
    (staging / SCHEMA).write_text(schema_to_json(workflow.output_schema), encoding="utf-8")
    whole = _both(before, grown, job.stays)
    write_json(staging / MANIFEST, whole)
    exchange(staging, features)
    shutil.rmtree(staging, ignore_errors=True)
    return whole


def _staging(features: Path) -> Path:
    return features.with_name(f".{features.name}.grow")


# may they grow, and by what


def _finished(features: Path, recipe: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plan and manifest of finished features."""
    for name in (PLAN, MANIFEST, f"{STATE}/{STATE_FILE}"):
        if not (features / name).is_file():
            raise UserError(
                f"{features}: no {name} there; these are no finished features. Run "
                f"'merlin-pipeline preprocess {recipe}' without --grow first"
            )
    record = features / HELD_OUT / held_out.RECORD
    made_by = read_json(record)["recipe"] if record.is_file() else recipe
    if made_by != recipe:
        raise UserError(f"{features}: features of the recipe '{made_by}', not of '{recipe}'")
    return read_json(features / PLAN), read_json(features / MANIFEST)


def _checked_settings(features: Path, made: Settings, given: Settings | None) -> Settings:
    """The settings to grow with: those given, if they differ from those ``made`` with only where
    they may."""
    if given is None:
        return made
    changed = _differences(made.model_dump(mode="json"), given.model_dump(mode="json"))
    changed = [told for name, told in changed if name.split(".")[0] not in MAY_DIFFER]
    kinds = made.split.kind, given.split.kind
    others = "leave_one_out" in kinds and kinds[0] != kinds[1]
    if others or not held_out.can_grow(given.split):
        changed.append(f"split.kind ({kinds[0]!r}, now {kinds[1]!r})")
    if changed:
        raise UserError(
            f"{features} were made with other settings: {', '.join(changed)}. To grow them, give "
            "the settings that they were made with; to change settings, run preprocess on all days "
            "without --grow"
        )
    return given


def _differences(made: Any, given: Any, name: str = "") -> list[tuple[str, str]]:
    """Names of the settings that differ, and what is told of each."""
    if not (isinstance(made, dict) and isinstance(given, dict)):
        return [] if made == given else [(name, f"{name} ({made!r}, now {given!r})")]
    found = []
    for key in dict.fromkeys((*made, *given)):
        where = f"{name}.{key}" if name else key
        found += _differences(made.get(key), given.get(key), where)
    return found


def _fresh(raw: Path, manifest: dict[str, Any], settled: Settled) -> dict[str, Any]:
    """The manifest without the shards that the features were made of.

    Raises:
        UserError: its columns are others, or a file that they were made of has more rows now.
    """
    columns = settled.record["columns"]
    if manifest["columns"] != columns:
        raise UserError(
            f"{raw}: its columns are {_told(manifest['columns'])}; those of the log that the "
            f"features were made of are {_told(columns)}. Ingest it with the same source settings"
        )
    fresh = held_out.fresh(manifest, settled.record)
    passed = len(manifest["shards"]) - len(fresh["shards"])
    if passed and fresh["shards"]:
        say(f"grow: {passed} of {len(manifest['shards'])} shards are in the features already")
    return fresh


def _told(columns: Any) -> str:
    if isinstance(columns, dict):
        return ", ".join(f"{name} ({kind})" for name, kind in columns.items())
    return ", ".join(columns)


# the merged state, the parts


def _numbered_on(job: Job, before: dict[str, Any]) -> Job:
    """The job with its parts numbered on from those that stay."""
    first = {split: before["splits"][split]["files"] for split in job.stays}
    parts = [
        dataclasses.replace(part, number=part.number + first.get(part.split, 0))
        for part in job.parts
    ]
    return dataclasses.replace(job, parts=parts)


def _merged(client: Any, job: Job, features: Path, staging: Path, device: Device) -> Workflow:
    """The workflow with the state of all training rows, which is kept in ``staging``."""
    schema = job.schema
    sample, trains = _sample(job)
    if not (staging / STATE / STATE_FILE).is_file():
        sources = preprocess.training_sources(job) if trains else []
        say(f"grow: fitting on {len(sources)} new part(s)")
        merged = load_state(job.workflow(), features / STATE, schema)
        if trains:
            later = job.workflow()
            spill = staging / EVENTS / COUNTS
            fitting.fit(client, later, sources, job.read, "train", schema, spill, device)
            absorb(merged, later)
        fitting.settle_schema(merged, sample, schema)
        save_state(merged, staging / STATE)
    merged = load_state(job.workflow(), staging / STATE, schema)
    fitting.settle_schema(merged, sample, schema)
    return merged


def _sample(job: Job) -> tuple[Any, bool]:
    """Some rows, and whether there are any that train."""
    for part in job.parts:  # those that train come first
        frame = job.read(part.source, part.split)
        if len(frame):
            return frame, part.split == "train"
    raise UserError("the new rows leave nothing after the filters of their preprocess settings")


def _link_parts(old: Path, new: Path) -> None:
    new.mkdir(parents=True, exist_ok=True)
    for path in sorted(old.glob("*.parquet")):
        if not (new / path.name).exists():
            held_out.link(path, new / path.name)


def _both(old: dict[str, Any], new: dict[str, Any], stays: tuple[str, ...]) -> dict[str, Any]:
    """The manifest of the parts that stay and of the new ones together."""
    unit = new["unit"]
    whole = {**new, "generated": None, "source": old["source"], "splits": dict(new["splits"])}
    fits = old.get("fits") or [_fit({}, old, stays)]
    for split in stays:
        before, after = old["splits"][split], new["splits"][split]
        unknown = {name: n + before["unknown"][name] for name, n in after["unknown"].items()}
        rows, files, values = (before[key] + after[key] for key in (unit, "files", "values"))
        whole["splits"][split] = preprocess.describe_split(unit, rows, files, values, unknown)
    return {**whole, "fits": [*fits, _fit(old, whole, stays)]}


def _fit(old: dict[str, Any], new: dict[str, Any], stays: tuple[str, ...]) -> dict[str, Any]:
    """What one fit cut and wrote: of the splits whose parts stay the first and last-plus-one."""
    first = {split: old["splits"][split]["files"] if old else 0 for split in stays}
    parts = {split: [first[split], new["splits"][split]["files"]] for split in stays}
    cut = "ranges" if "ranges" in new else "bounds"
    return {"parts": parts, cut: new[cut]}


# two folders change places

_RENAME_EXCHANGE, _AT_FDCWD = 2, -100


def exchange(staging: Path, features: Path) -> None:
    """Puts ``staging`` in the place of ``features`` and the other way round, in one step where the
    system can (Linux); elsewhere :func:`grow` mends what a kill between two steps left."""
    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameat2", None)
    if rename is not None:
        names = os.fsencode(staging), os.fsencode(features)
        if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(features))
    aside = features.with_name(f".{features.name}.before")
    os.replace(features, aside)
    os.replace(staging, features)
    os.replace(aside, staging)


def _finish_exchange(features: Path) -> None:
    aside = features.with_name(f".{features.name}.before")
    if not aside.exists():
        return
    if not features.exists():
        os.replace(_staging(features), features)
    shutil.rmtree(aside)
