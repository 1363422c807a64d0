"""The raw logs that features were made of, one after another, split as preprocess did."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.artifacts import read_json
from core.console import counted
from core.errors import UserError
from pipeline import held_out, splits
from pipeline.data_report.shards import TIME, RawLog, Shard, dated_log, ranking_log
from pipeline.data_report.splitting import split_ratings, split_sessions
from pipeline.preprocess import PLAN, log_digest, raw_manifest
from pipeline.preprocess_sessions import id_shift
from pipeline.row_log import in_split_order
from pipeline.splits import SplitSettings


@dataclass(frozen=True)
class Ingested:
    """One raw log: its manifest, without shards that an earlier log had, and what was added to
    its session ids."""

    folder: Path
    manifest: dict[str, Any]
    shift: int


def raw_logs(folders: list[Path], features: Path) -> list[Ingested]:
    """The raw logs in ``folders``, in the order in which ``features`` took them.

    Raises:
        UserError: they are not what ``features`` were made of.
    """
    plan = read_json(features / PLAN)
    expected = [plan["raw"], *plan.get("grown", ())]
    manifests = [raw_manifest(folder) for folder in folders]
    in_one = _logs_in_one(folders, manifests, features, len(expected))
    if in_one:
        return in_one
    if [log_digest(manifest) for manifest in manifests] != expected:
        named = ", ".join(map(str, folders))
        how = "name the raw folder of each, oldest first" if len(expected) > 1 else "name that one"
        raise UserError(
            f"{features}: made from {counted(len(expected), 'raw log')}, of which {named} is not "
            f"the whole, or not in that order; {how}, or run preprocess again"
        )
    known, ingested = held_out.NOTHING, []
    for folder, manifest in zip(folders, manifests, strict=True):
        manifest = held_out.fresh(manifest, known)
        shift = id_shift(manifest, known) if ingested else 0
        ingested.append(Ingested(folder, manifest, shift))
        known = held_out.take(manifest, known)
    return ingested


def _logs_in_one(
    folders: list[Path], manifests: list[dict[str, Any]], features: Path, logs: int
) -> list[Ingested]:
    """The raw logs, one after another, of features that grew by new files of one raw folder; empty
    where the features are not of that folder, or of all of it in one."""
    path = features / held_out.HELD_OUT / held_out.RECORD
    if len(folders) != 1 or logs < 2 or not path.is_file():
        return []
    record, there = read_json(path), {s.get("sha256") for s in manifests[0]["shards"]}
    counts = held_out.logs_of(record)
    if len(counts) != logs or there != set(record["known"]):
        return []
    ingested, first = [], 0
    for count in counts:
        hashes = set(record["known"][first : first + count])
        ingested.append(Ingested(folders[0], held_out.restricted(manifests[0], hashes), 0))
        first += count
    return ingested


def read_log(recipe: str, logs: list[Ingested], features: Path, made: dict[str, Any]) -> RawLog:
    """All rows of ``logs``; ``made`` is the manifest of ``features``."""
    settings = read_json(features / PLAN)["settings"]
    split = SplitSettings.model_validate(settings["split"])
    if recipe == "ranking" and "bounds" in made:
        shards = _shards(logs, SplitSettings())
        return dated_log(shards, split_ratings(shards, made["bounds"]))
    if recipe == "ranking":
        return ranking_log(_shards(logs, split), _files(logs), made["ranges"])
    shards = _shards(logs, SplitSettings())
    if split.kind == "files":
        shards = _tested(logs[0], shards, split)
    if recipe == "interactions":
        if split.kind == "leave_one_out" and len(logs) > 1:
            raise UserError(
                f"{features}: grown with split.kind 'leave_one_out', where what a user rated "
                "before decides; the report does not know these splits. Run preprocess on all days"
            )
        splitting = split_ratings(shards, made["bounds"])
        if TIME not in logs[0].manifest["columns"]:
            return RawLog(shards, _files(logs), list(splitting))
        return dated_log(shards, splitting)
    bounds = [fit["bounds"] for fit in made.get("fits", [made])]
    return dated_log(shards, split_sessions(shards, [log.shift for log in logs], bounds))


def _files(logs: list[Ingested]) -> list[str]:
    """Names of the input files, which are the days of logs without times."""
    return [Path(entry["file"]).name for log in logs for entry in log.manifest["inputs"]]


def _shards(logs: list[Ingested], split: SplitSettings) -> list[Shard]:
    shards, first_day = [], 0
    for number, log in enumerate(logs):
        for entry in in_split_order(log.manifest, split):
            day = first_day + entry["source_index"]
            shards.append(Shard(log.folder / entry["file"], entry["rows"], day, number))
        first_day += len(log.manifest["inputs"])
    return shards


def _tested(log: Ingested, shards: list[Shard], split: SplitSettings) -> list[Shard]:
    """The shards, with those marked whose input file tests as a whole."""
    files = [entry["file"] for entry in log.manifest["inputs"]]
    testing = splits.test_file_indexes(split, files)
    return [Shard(s.path, s.rows, s.day, s.log, s.day in testing) for s in shards]
