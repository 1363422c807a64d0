"""Whether features that exist take new rows in, or are made anew; nothing of theirs is lost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.artifacts import read_json
from core.console import say
from core.errors import UserError
from core.settings import Settings
from pipeline import held_out
from pipeline.grow import changed_settings
from pipeline.held_out import HELD_OUT
from pipeline.preprocess import MANIFEST, PLAN, code_digest, open_raw


def anew_because(raw: str | Path, features: str | Path, settings: Settings) -> str | None:
    """Why the features in ``features`` are made anew of all of ``raw``, where ``grow`` is set;
    None: they take in what is new in ``raw``.

    Raises:
        UserError: they would have to be made anew, and ``raw`` is not all that they were made of.
    """
    raw, features = Path(raw), Path(features)
    record = features / HELD_OUT / held_out.RECORD
    if not all((features / name).is_file() for name in (PLAN, MANIFEST)) or not record.is_file():
        return "there are no finished features that could grow"
    plan = read_json(features / PLAN)
    why = _what_changed(plan, settings)
    manifest, known = open_raw(raw).record, read_json(record)
    why = why or _altered(manifest, known)
    left_out = _left_out(manifest, known)
    if not why and left_out:
        say(f"note: the features keep rows that {raw} no longer has ({left_out})")
    if why and plan.get("grown") and left_out:
        raise UserError(
            f"{features}: {why}, so these features would have to be made anew, but {raw} has only "
            f"some of the rows that they were made of ({left_out}). Ingest all of them into {raw}, "
            f"put back what was changed, or delete {features}"
        )
    return why


def check_nothing_is_lost(raw: str | Path, features: str | Path, recipe: str) -> None:
    """Checks that ``features`` made anew of ``raw`` still have every row that they grew by.

    Raises:
        UserError: they grew by a raw log that ``raw`` does not hold.
    """
    raw, features = Path(raw), Path(features)
    record = features / HELD_OUT / held_out.RECORD
    if not (features / MANIFEST).is_file() or not record.is_file():
        return
    if not read_json(features / PLAN).get("grown"):
        return
    left_out = _left_out(open_raw(raw).record, read_json(record))
    if left_out:
        raise UserError(
            f"{features}: these features have grown; made anew of {raw} they would lose rows "
            f"({left_out}). Set {recipe}.preprocess.grow=true to keep them, ingest all files into "
            f"{raw} (under DVC: put the new ones into source.path), or delete {features} first"
        )


def _what_changed(plan: Mapping[str, Any], settings: Settings) -> str | None:
    changed = changed_settings(plan["settings"], settings)
    if changed:
        return f"their settings were others: {', '.join(changed)}"
    return "their code was another" if plan["code"] != code_digest() else None


def _altered(manifest: Mapping[str, Any], known: Mapping[str, Any]) -> str | None:
    """An input file that was read before and has other rows now, in a log that goes on."""
    seen = set(known["known"])
    if not any(shard.get("sha256") in seen for shard in manifest["shards"]):
        return None
    files = known.get("sources", ())
    changed = [
        shard["source"]
        for shard in manifest["shards"]
        if shard.get("sha256") not in seen and shard["source"] in files
    ]
    return f"{changed[0]} has other rows than before" if changed else None


def _left_out(manifest: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """What features were made of that a raw log lacks, in words; "" if it has all."""
    there = {shard.get("sha256") for shard in manifest["shards"]}
    lost = sum(sha256 not in there for sha256 in known["known"])
    files = set(held_out.source_files(manifest))
    missing = [name for name in known.get("sources", ()) if name not in files]
    if not lost or ("sources" in known and not missing):
        return ""
    if not missing:  # features of an older version have no names
        return f"{lost:,} shards of theirs are not there"
    more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
    return f"those of {', '.join(missing[:3])}{more} are not there"
