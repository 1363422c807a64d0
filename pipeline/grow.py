"""New days into features that exist: vocabularies are extended, statistics merged, old parts kept.

The grown folder is built beside the old one, with links to the old parts, and then takes its place
in one step: whoever reads, or kills this, sees the old state or the new one. A run that was killed
continues from the parts that it finished.
"""

import dataclasses
import importlib
import shutil
import textwrap
from pathlib import Path
from typing import Any

from core import cluster as dask_cluster
from core import kinds
from core.artifacts import read_json, remove_partials, write_json
from core.cluster import ClusterSettings
from core.console import counted, say
from core.errors import UserError
from core.frames import Device
from core.merlin import Workflow
from core.outputs import Claim, claimed
from core.settings import Settings
from core.siblings import remove_sibling
from core.sums import FILES, Contents, Sums, files_below, sums_of
from pipeline import fitting, held_out, preprocess
from pipeline.doubts import TARGETS, joined_targets
from pipeline.feature_folder import open_features
from pipeline.held_out import HELD_OUT, Settled
from pipeline.preprocess import (
    COUNTS,
    EVENTS,
    LIST_VALUES,
    MANIFEST,
    PLAN,
    STATE,
    Job,
    describe_split,
    open_raw,
)
from pipeline.sections import settings_class
from pipeline.splits import SPLITS
from workflows.state import STATE_FILE, check_growable, load_state, save_state

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
    raw = Path(raw)
    with claimed(features, kinds.FEATURES, [raw], resumable=True) as claim:
        try:
            with open_raw(raw, recipe).watched() as log:
                return _grow(recipe, raw, log, claim, settings, cluster)
        except UserError:
            _discard(claim.stopped)
            raise


def _discard(staging: Path | None) -> None:
    if staging is not None:
        remove_sibling(staging)


def _grow(
    recipe: str,
    raw: Path,
    log: Contents,
    claim: Claim,
    settings: Settings | None,
    cluster: ClusterSettings | None,
) -> dict[str, Any]:
    features, manifest = claim.folder, log.record
    plan, before = _finished(features, recipe)
    made = settings_class(f"{recipe}.preprocess")(**plan["settings"])
    settings = _checked_settings(features, made, settings)
    settled = held_out.load(features, made.split)
    digest = preprocess.log_digest(manifest)
    fresh = _fresh(raw, manifest, settled)
    if digest in (plan["raw"], *plan.get("grown", ())) or not fresh["shards"]:
        say(f"grow: all of {raw} is in the features already; nothing to do")
        _discard(claim.stopped)
        return before
    recipes = importlib.import_module(f"pipeline.preprocess_{recipe}")
    check_growable(recipes.workflow(settings, list(manifest["columns"])))
    staged = {
        **plan,
        "settings": settings.model_dump(mode="json"),
        "grown": [*plan.get("grown", ()), digest],
    }
    staging = _begin(claim, staged)
    cluster = cluster or ClusterSettings()
    with (
        dask_cluster.start(cluster) as client,
        dask_cluster.expecting(client, cluster, raw, manifest.get(FILES, {})),
    ):
        device = dask_cluster.device_of(client, cluster)
        job = recipes.prepare(client, raw, fresh, settings, staging / EVENTS, settled)
        job = _numbered_on(job, before)
        workflow = _merged(client, job, features, staging, device)
        needed = ("valid",) if settings.split.valid else ()
        grown, sums = preprocess.apply(client, workflow, job, staging, needed, device)
        held_out.save(staging / HELD_OUT, recipe, fresh, job.hold_out, settled)
    for split in job.stays:
        sums |= _linked_parts(features, split, staging, before.get(FILES))
    whole = preprocess.finish(
        staging,
        workflow,
        _both(before, grown, job.stays),
        sums,
        lambda: shutil.rmtree(staging / EVENTS, ignore_errors=True),
    )
    log.settle()
    claim.publish(staging)
    remove_sibling(staging)
    _say_what_trains(before, whole)
    return whole


def _say_what_trains(before: dict[str, Any], whole: dict[str, Any]) -> None:
    """What training gained, and what of the new rows waits: by the split, the latest are held
    out."""
    unit = whole["unit"]
    trained, trains = (of["splits"]["train"][unit] for of in (before, whole))
    codes = [sum(of["cardinality"].values()) for of in (before, whole)]
    say(f"grow: {trained:,} → {trains:,} {unit} train; {codes[0]:,} → {codes[1]:,} codes")
    held = whole["splits"]["valid"][unit] + whole["splits"]["test"][unit]
    if held:
        say(
            f"grow: the latest {held:,} {unit} are held out by the split. They train once later "
            "days come, and only then do values that no other has get codes; with split.test and "
            "split.valid 0 they train now"
        )


def _begin(claim: Claim, plan: dict[str, Any]) -> Path:
    """The folder beside the features in which those that grew are made: what a stopped run of the
    same plan left, or an empty one."""
    if claim.stopped is not None and preprocess.is_of(claim.stopped, plan):
        remove_partials(claim.stopped)
        return claim.stopped
    _discard(claim.stopped)
    claim.stopped = claim.staging()
    write_json(claim.stopped / PLAN, plan)
    return claim.stopped


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
    contents = open_features(features)
    for name in contents.files or ():
        if not name.startswith(tuple(f"{split}/" for split in SPLITS)):
            contents.check(name)
    return read_json(features / PLAN), contents.record


def _checked_settings(features: Path, made: Settings, given: Settings | None) -> Settings:
    """The settings to grow with: those given, if they differ from those ``made`` with only where
    they may."""
    if given is None:
        return made
    changed = changed_settings(made.model_dump(mode="json"), given)
    if changed:
        raise UserError(
            f"{features} were made with other settings: {', '.join(changed)}. To grow them, give "
            "the settings that they were made with; to change settings, run preprocess on all days "
            "without --grow"
        )
    return given


def changed_settings(made: dict[str, Any], given: Settings) -> list[str]:
    """Settings that differ from those that features were ``made`` with, and may not, in words."""
    changed = _differences(made, given.model_dump(mode="json"))
    changed = [words for name, words in changed if name.split(".")[0] not in MAY_DIFFER]
    kinds = made["split"]["kind"], given.split.kind
    others = "leave_one_out" in kinds and kinds[0] != kinds[1]
    # A kind that cannot grow, and is the same, is named with its reason later.
    if others or (kinds[0] != kinds[1] and not held_out.can_grow(given.split)):
        changed.append(f"split.kind ({kinds[0]!r}, now {kinds[1]!r})")
    return changed


def _differences(made: Any, given: Any, name: str = "") -> list[tuple[str, str]]:
    """Names of the settings that differ, and what is told of each."""
    if not (isinstance(made, dict) and isinstance(given, dict)):
        words = f"{name} ({_short(made)}, now {_short(given)})"
        return [] if made == given else [(name, words)]
    found = []
    for key in dict.fromkeys((*made, *given)):
        where = f"{name}.{key}" if name else key
        found += _differences(made.get(key), given.get(key), where)
    return found


def _short(value: Any) -> str:
    return textwrap.shorten(repr(value), 60, placeholder=" …")


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
            f"{_types_to_set(settled.record['recipe'], manifest['columns'], columns)}"
        )
    fresh = held_out.fresh(manifest, settled.record)
    passed = len(manifest["shards"]) - len(fresh["shards"])
    if passed and fresh["shards"]:
        say(f"grow: {passed} of {len(manifest['shards'])} shards are in the features already")
    return fresh


def _types_to_set(recipe: str, new: Any, old: Any) -> str:
    """The setting by which ids are read as those that the features were made of, where it is only
    that their types were guessed otherwise from the new values."""
    if not (isinstance(new, dict) and isinstance(old, dict)) or list(new) != list(old):
        return ""
    names = {"int64": "integer", "string": "string"}
    differ = {name: kind for name, kind in old.items() if kind != new[name]}
    if not all({kind, new[name]} <= names.keys() for name, kind in differ.items()):
        return ""
    types = ", ".join(f"{name}: {names[kind]}" for name, kind in differ.items())
    return f": --set '{recipe}.source.types={{{types}}}'"


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
        say(f"grow: fitting on {counted(len(sources), 'new part')}")
        merged = load_state(job.workflow(), features / STATE, schema)
        if trains:
            later = job.workflow()
            spill = staging / EVENTS / COUNTS
            read = job.read
            fitting.fit(client, later, sources, read, "train", schema, spill, device, onto=merged)
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


def _linked_parts(features: Path, split: str, staging: Path, sums: Sums | None) -> Sums:
    """Links the parts of a split, which stay; returns their sums.

    Args:
        sums: of the features' files, where their manifest has them.
    """
    (staging / split).mkdir(parents=True, exist_ok=True)
    names = [f"{split}/{name}" for name in files_below(features / split)]
    for name in names:
        if not (staging / name).exists():
            held_out.link(features / name, staging / name)
    return sums_of(features, names) if sums is None else {name: sums[name] for name in names}


def _both(old: dict[str, Any], new: dict[str, Any], stays: tuple[str, ...]) -> dict[str, Any]:
    """The manifest of the parts that stay and of the new ones together."""
    unit = new["unit"]
    whole = {**new, "source": old["source"], "splits": dict(new["splits"])}
    fits = old.get("fits") or [_fit({}, old, stays)]
    for split in stays:
        before, after = old["splits"][split], new["splits"][split]
        unknown = {name: n + before["unknown"][name] for name, n in after["unknown"].items()}
        rows, files = (before[key] + after[key] for key in (unit, "files"))
        counts = {
            name: sum(of.get(LIST_VALUES, {}).get(name, of["values"]) for of in (before, after))
            for name in unknown
        }
        described = describe_split(unit, rows, files, counts, unknown)
        if TARGETS in before:
            parts = [of[TARGETS] for of in (before, after) if TARGETS in of]
            described[TARGETS] = joined_targets(parts)
        whole["splits"][split] = described
    return {**whole, "fits": [*fits, _fit(old, whole, stays)]}


def _fit(old: dict[str, Any], new: dict[str, Any], stays: tuple[str, ...]) -> dict[str, Any]:
    """What one fit cut and wrote: of the splits whose parts stay the first and last-plus-one."""
    first = {split: old["splits"][split]["files"] if old else 0 for split in stays}
    parts = {split: [first[split], new["splits"][split]["files"]] for split in stays}
    cut = "ranges" if "ranges" in new else "bounds"
    return {"parts": parts, cut: new[cut]}
