"""Session features against a plain reference, whatever the shards, buckets and order of events."""

from collections import Counter

import numpy as np
import polars as pl
import pytest

from core.artifacts import read_json, write_json, write_parquet
from core.cluster import ClusterSettings
from core.errors import UserError
from pipeline.ingest.shards import describe_shard
from pipeline.preprocess_sessions import SessionsPreprocessSettings, preprocess_sessions
from pipeline.sessionize import SessionizeSettings
from pipeline.splits import SplitSettings
from workflows.sessions import SessionsWorkflowSettings

MINUTE = 60_000


def make_events(sessions=300, seed=0, text_ids=False):
    """Interleaved sessions with repeats, equal timestamps, nulls and a rare item in each."""
    rng = np.random.default_rng(seed)
    rows = []
    for session in range(sessions):
        start = 1_600_000_000_000 + session * 7 * MINUTE
        for step in range(rng.integers(1, 9)):
            item = int(rng.zipf(1.4) % 40)
            rows.append(
                {
                    "session_id": f"s,{session} 🦊" if text_ids else session * 31 - 500,
                    "item_id": f"item {item}" if text_ids else item - 5,
                    # Every third event has the time of the one before it.
                    "timestamp": start + (step - step % 3) * MINUTE,
                    "category": None if item % 7 == 0 else item % 5,
                    "price": None if item % 6 == 0 else float(item) + 0.5,
                }
            )
    order = np.argsort([row["timestamp"] for row in rows], kind="stable")
    types = {"timestamp": pl.Datetime("ms", "UTC"), "price": pl.Float32}
    return pl.DataFrame(rows).with_columns(pl.col(n).cast(t) for n, t in types.items())[order]


def write_raw(folder, events, shards=4, source_of=lambda number: 0):
    cuts = np.linspace(0, len(events), shards + 1).astype(int)
    described = []
    for number in range(shards):
        piece = events[cuts[number] : cuts[number + 1]]
        path = folder / f"part-{number:05d}.parquet"
        write_parquet(path, piece.to_arrow())
        source = source_of(number)
        described.append({**describe_shard(path, len(piece)), "source_index": source})
    names = ["clicks_train.csv", "clicks_test.csv"]
    inputs = [{"file": names[source]} for source in sorted({d["source_index"] for d in described})]
    write_json(
        folder / "manifest.json",
        {"columns": events.columns, "inputs": inputs, "shards": described},
    )
    return folder


def reference(events, settings):
    """Sessions of each split by the definition: ``{split: {session_id: [items]}}``."""
    rows = events.to_dicts()
    sessions, starts = {}, {}
    for row in rows:
        starts[row["session_id"]] = min(
            starts.get(row["session_id"], row["timestamp"]), row["timestamp"]
        )
        sessions.setdefault(row["session_id"], []).append((row["timestamp"], row["item_id"]))
    ordered = sorted(starts.values())
    test_start = ordered[round(len(ordered) * (1 - settings.split.test))]
    before = [start for start in ordered if start < test_start]
    valid_start = before[round(len(before) * (1 - settings.split.valid))]
    found = {"train": {}, "valid": {}, "test": {}}
    for session, events_of in sessions.items():
        start = starts[session]
        split = "train" if start < valid_start else "valid" if start < test_start else "test"
        items = [item for _, item in sorted(events_of, key=lambda pair: pair[0])]
        found[split][session] = items
    support = Counter(item for items in found["train"].values() for item in items)
    kept = {split: {} for split in found}
    for split, group in found.items():
        for session, items in group.items():
            if split == "train":
                items = [i for i in items if support[i] >= settings.sessions.min_item_support]
            items = [i for n, i in enumerate(items) if n == 0 or items[n - 1] != i]
            if len(items) >= settings.sessions.min_length:
                kept[split][session] = items[-settings.sessions.max_length :]
    return kept


def codes_of(training):
    counts = Counter(item for items in training.values() for item in items)
    ranked = sorted(counts, key=lambda item: (-counts[item], item))
    return {item: 3 + rank for rank, item in enumerate(ranked)}


SETTINGS = SessionsPreprocessSettings(
    split=SplitSettings(test=0.25, valid=0.2),
    sessions=SessionizeSettings(min_item_support=3, max_length=5),
    workflow=SessionsWorkflowSettings(side_freq_threshold=1),
    events_per_part=200,
)


@pytest.mark.parametrize("text_ids", [False, True])
@pytest.mark.parametrize(("shards", "per_part"), [(1, 10_000), (5, 150)])
def test_features_equal_a_plain_reference(tmp_path, text_ids, shards, per_part):
    events = make_events(text_ids=text_ids)
    raw = write_raw(tmp_path / "raw", events, shards)
    settings = SETTINGS.model_copy(update={"events_per_part": per_part})
    preprocess_sessions(raw, tmp_path / "out", settings, ClusterSettings(workers=2))
    expected = reference(events, settings)
    codes = codes_of(expected["train"])
    for split, sessions in expected.items():
        found = pl.read_parquet(tmp_path / "out" / split / "*.parquet")
        items = dict(zip(found["session_id"], found["item_id"].to_list(), strict=True))
        assert items == {
            session: [codes.get(item, 2) for item in kept] for session, kept in sessions.items()
        }
        lengths = found["item_id"].list.len()
        for column in ("category", "price", "hour_sin", "hour_cos", "gap"):
            assert (found[column].list.len() == lengths).all()
            assert found[column].list.eval(pl.element().is_null()).list.any().not_().all()
    assert not (tmp_path / "out" / "events").exists()


def test_continuous_features_are_standard_over_training(tmp_path):
    raw = write_raw(tmp_path / "raw", make_events())
    preprocess_sessions(raw, tmp_path / "out", SETTINGS)
    train = pl.read_parquet(tmp_path / "out" / "train" / "*.parquet")
    for column in ("hour_sin", "hour_cos", "gap"):
        values = train[column].explode().to_numpy().astype(float)
        assert values.mean() == pytest.approx(0, abs=1e-4)
        assert values.std(ddof=1) == pytest.approx(1, abs=1e-4)


def test_a_test_file_of_its_own(tmp_path):
    events = make_events(sessions=80)
    raw = write_raw(tmp_path / "raw", events, 4, source_of=lambda number: int(number == 3))
    split = SplitSettings(kind="files", valid=0.2)
    settings = SETTINGS.model_copy(update={"split": split})
    preprocess_sessions(raw, tmp_path / "out", settings)
    last = pl.read_parquet(raw / "part-00003.parquet")["session_id"].unique().to_list()
    tested = pl.read_parquet(tmp_path / "out" / "test" / "*.parquet")["session_id"].to_list()
    assert tested and set(tested) <= set(last)
    wrong = settings.model_copy(update={"split": SplitSettings(kind="files", test_files="x*")})
    with pytest.raises(UserError, match=r"matches no input file.*clicks_train"):
        preprocess_sessions(raw, tmp_path / "other", wrong)


def test_the_manifest_counts_sessions(tmp_path):
    events = make_events()
    raw = write_raw(tmp_path / "raw", events)
    preprocess_sessions(raw, tmp_path / "out", SETTINGS)
    manifest = read_json(tmp_path / "out" / "manifest.json")
    expected = reference(events, SETTINGS)
    for split in ("train", "valid", "test"):
        assert manifest["splits"][split]["sessions"] == len(expected[split])
    assert manifest["splits"]["train"]["oov_rate"]["item_id"] == 0
