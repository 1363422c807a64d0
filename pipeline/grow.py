"""New days into features that exist: vocabularies are extended, statistics merged, old parts kept.

The grown folder is built beside the old one, with links to the old parts, and then takes its place
in one step: whoever reads, or kills this, sees the old state or the new one. A run that was killed
goes on from the parts that it finished.
"""

import ctypes
import errno
import os
import shutil
from pathlib import Path
from typing import Any

from core import cluster as dask_cluster
from core.artifacts import read_json, write_json
from core.cluster import ClusterSettings
from core.console import say
from core.errors import UserError
from core.merlin import Workflow, schema_to_json
from core.settings import Settings
from pipeline import fitting, preprocess
from pipeline.preprocess import MANIFEST, PLAN, SCHEMA, STATE, Part, RankingPreprocessSettings
from pipeline.splits import SPLITS
from workflows import ranking as ranking_workflow
from workflows.state import STATE_FILE, absorb, load_state, save_state


def grow_ranking(
    raw: str | Path,
    features: str | Path,
    settings: RankingPreprocessSettings | None = None,
    cluster: ClusterSettings | None = None,
    all_train: bool = False,
) -> dict[str, Any]:
    """Adds the raw Parquet in ``raw`` to the ranking features in ``features``.

    No code moves: a value that reaches the threshold on old and new training rows together gets
    a code after all others. Counts, means and deviations are those of all training rows, as if
    they had been given at once. Only the new rows are read; they are encoded with the merged
    state, the parts that are there stay as they are.

    Args:
        settings: those that ``features`` were made with; ``split`` may differ, and is applied to
            the new rows alone. None: the same.
        all_train: every new row trains, whatever ``split`` says.

    Returns:
        The manifest of the whole. Where ``raw`` is in ``features`` already, nothing is done.

    Raises:
        UserError: ``features`` are not whole, or were made with other workflow settings.
    """
    raw, features = Path(raw), Path(features)
    _finish_exchange(features)
    plan, before = _fitted(features)
    settings = _settings(features, plan, settings)
    manifest = preprocess.raw_manifest(raw)
    digest = preprocess.plan_of(settings, manifest)["raw"]
    if digest in (plan["raw"], *plan.get("grown", ())):
        say(f"grow: {raw} is in {features} already; nothing to do")
        shutil.rmtree(_staging(features), ignore_errors=True)
        return before
    shards = preprocess.in_split_order(manifest, settings.split)
    if all_train:
        ranges = {"train": (0, sum(shard["rows"] for shard in shards))}
    else:
        ranges = preprocess.split_ranges(shards, manifest, settings.split)
    parts = _after(preprocess.ranking_parts(raw, shards, ranges, settings.rows_per_part), features)
    staging = _staging(features)
    staged = {**plan, "grown": [*plan.get("grown", ()), digest]}
    # The way the new rows are cut decides what is staged; it is not part of what was fitted.
    cut = {"grow": [[part.split, part.number, *part.source] for part in parts]}
    preprocess.begin(staging, {**staged, **cut})
    with dask_cluster.start(cluster or ClusterSettings()) as client:
        workflow = _merged(client, settings, parts, features, staging)
        written = dask_cluster.run(
            client,
            "writing features",
            preprocess.apply_part,
            parts,
            workflow,
            preprocess.read_rows,
            str(staging),
        )
    grown = preprocess.summary(parts, written, workflow.output_schema, {"unit": "rows"}, True)
    for split in SPLITS:
        _link_parts(features / split, staging / split)
    (staging / SCHEMA).write_text(schema_to_json(workflow.output_schema), encoding="utf-8")
    whole = _both(before, grown)
    write_json(staging / PLAN, staged)
    write_json(staging / MANIFEST, whole)
    exchange(staging, features)
    shutil.rmtree(staging, ignore_errors=True)
    return whole


def _staging(features: Path) -> Path:
    return features.with_name(f".{features.name}.grow")


def _fitted(features: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    for name in (PLAN, MANIFEST, f"{STATE}/{STATE_FILE}"):
        if not (features / name).is_file():
            raise UserError(
                f"{features}: no {name} there; these are no finished features. Run "
                "'merlin-pipeline preprocess ranking' without --grow first"
            )
    plan, manifest = read_json(features / PLAN), read_json(features / MANIFEST)
    if manifest["unit"] != "rows":
        raise UserError(f"{features}: features of sessions; only ranking features can grow")
    return plan, manifest


def _settings(
    features: Path, plan: dict[str, Any], given: RankingPreprocessSettings | None
) -> RankingPreprocessSettings:
    made = RankingPreprocessSettings(**plan["settings"])
    if given is None:
        return made
    changed = _differences(made.workflow, given.workflow)
    if changed:
        raise UserError(
            f"{features} were made with other settings: workflow.{', workflow.'.join(changed)}. "
            "To grow them, give the settings that they were made with; to change settings, run "
            "preprocess on all days without --grow"
        )
    return given


def _differences(made: Settings, given: Settings) -> list[str]:
    a, b = made.model_dump(mode="json"), given.model_dump(mode="json")
    return [f"{name} ({a[name]!r}, now {b[name]!r})" for name in a if a[name] != b[name]]


def _after(parts: list[Part], features: Path) -> list[Part]:
    """The parts, numbered on from those that are there."""
    first = {split: len(list((features / split).glob("part-*.parquet"))) for split in SPLITS}
    return [Part(part.split, first[part.split] + part.number, part.source) for part in parts]


def _merged(
    client: Any,
    settings: RankingPreprocessSettings,
    parts: list[Part],
    features: Path,
    staging: Path,
) -> Workflow:
    """The workflow with the state of all training rows, which is kept in ``staging``."""
    schema = ranking_workflow.raw_schema()
    sources = [part.source for part in parts if part.split == "train"]
    if not (staging / STATE / STATE_FILE).is_file():
        say(f"grow: fitting on {len(sources)} new part(s)")
        later = ranking_workflow.build(settings.workflow)
        fitting.fit(client, later, sources, preprocess.read_rows, "train", schema)
        merged = load_state(ranking_workflow.build(settings.workflow), features / STATE, schema)
        absorb(merged, later)
        fitting.settle_schema(merged, preprocess.read_rows(sources[0], "train"), schema)
        save_state(merged, staging / STATE)
    merged = load_state(ranking_workflow.build(settings.workflow), staging / STATE, schema)
    fitting.settle_schema(merged, preprocess.read_rows(sources[0], "train"), schema)
    return merged


def _link_parts(old: Path, new: Path) -> None:
    new.mkdir(parents=True, exist_ok=True)
    for path in sorted(old.glob("*.parquet")):
        target = new / path.name
        if target.exists():
            continue
        try:
            os.link(path, target)
        except OSError:  # a file system without links
            shutil.copy2(path, target)


def _both(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The manifest of old and new parts together."""
    whole = {**old, "generated": None, "cardinality": new["cardinality"], "splits": {}}
    for split, before in old["splits"].items():
        after = new["splits"][split]
        rows = before["rows"] + after["rows"]
        unknown = {name: n + before["unknown"][name] for name, n in after["unknown"].items()}
        whole["splits"][split] = {
            "rows": rows,
            "files": before["files"] + after["files"],
            "oov_rate": {n: round(c / rows, 6) if rows else 0.0 for n, c in unknown.items()},
            "unknown": unknown,
        }
    added = {split: found["rows"] for split, found in new["splits"].items()}
    return {**whole, "grown": [*old.get("grown", ()), added]}


# two folders change places

_RENAME_EXCHANGE, _AT_FDCWD = 2, -100


def exchange(staging: Path, features: Path) -> None:
    """Puts ``staging`` in the place of ``features`` and the other way round, in one step where the
    system can (Linux); elsewhere :func:`grow_ranking` mends what a kill between two steps left."""
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
