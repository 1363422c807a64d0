"""Small finished outputs of every kind that is promised to be read safely, and how each is read.

Each target is a folder, and a function that reads it as the program does and gives what came of it
as bytes: scores, lists or tensors.
"""

import functools
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from core.artifacts import read_json
from core.sums import reading
from pipeline import sessionize
from pipeline.feature_folder import open_features, read_schema
from pipeline.model_folder import load_model
from pipeline.params import Params
from pipeline.scoring import Bundle, clicks, next_items, tables
from pipeline.stages.export import export
from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import preprocess
from pipeline.stages.train import train
from training import checkpoints
from workflows import interactions
from workflows.state import load_state, saved_schema

ROWS, CHECKPOINT = 240, "step-000000001.safetensors"
RANKING = [
    "ranking.source.columns={labels: [click], categorical: [user, page, shop], "
    "continuous: [price, age], vectors: [title]}",
    "ranking.preprocess.split={test: 0.2, valid: 0.2}",
    "ranking.preprocess.rows_per_part=100",
    "ranking.preprocess.workflow={freq_threshold: 2, num_buckets: 2, vectors: {title: 2}, "
    "columns: {age: {transform: log, missing: 0, scale: minmax, bucketize: [10, 30]}}, "
    "target_encoding: [page], target_crosses: [[user, age]], target_counts: true, "
    "counts: [page], crosses: [[user, page]], hashing: {shop: 8}, dense_levels: true}",
    "ranking.model=ensemble",
    "ranking.ensemble={members: [{model: deepfm, settings: {embedding_dim: 4, deep_mlp: [8]}}, "
    "{model: afm, settings: {embedding_dim: 4, attention_size: 4}}]}",
    "ranking.train={epochs: 1, batch_size: 64}",
    "cluster.workers=1",
]
SESSIONS = [
    "sessions.source.columns={category: category, brand: brand, price: price}",
    "sessions.preprocess.split={test: 0.1, valid: 0.1}",
    "sessions.preprocess.workflow={columns: {price: {missing: median}}}",
    "sessions.model=sasrec",
    "sessions.sasrec={d_model: 8, heads: 1, layers: 1, max_length: 8, item_features: [category]}",
    "sessions.train={epochs: 1}",
    "cluster.workers=1",
]
INTERACTIONS = [
    "interactions.preprocess.split.kind=leave_one_out",
    "interactions.preprocess.workflow={target_encoding: [item_id], counts: [user_id], "
    "time_scale: minmax}",
    "interactions.mf={embedding_dim: 4}",
    "interactions.train={epochs: 1, batch_size: 64, checkpoint_every_steps: 4}",
    "cluster.workers=1",
]


@dataclass(frozen=True)
class Target:
    """A folder that may be altered.

    Attributes:
        manifest: the file whose sums vouch for the others; empty: each has its own.
        read: reads the folder as the program does; what came of it.
    """

    name: str
    folder: Path
    manifest: str
    read: Callable[[Path], bytes]


def make_all(folder: Path) -> None:
    """Makes the targets by the stages, in ``folder``; see :func:`open_all`."""
    for make in (_make_ranking, _make_sessions, _make_interactions):
        place = folder / make.__name__.removeprefix("_make_")
        place.mkdir(parents=True)
        make(place)


def open_all(folder: Path) -> list[Target]:
    """The targets that were made in ``folder``."""
    clicks, shop, ratings = (folder / name for name in ("ranking", "sessions", "interactions"))
    scores = functools.partial(_scores, raw=clicks / "asked")
    lists = functools.partial(_recommended, raw=shop / "asked")
    model = functools.partial(_model, features=ratings / "features")
    state = functools.partial(_state, raw=ratings / "raw")
    return [
        Target("ranking bundle", clicks / "bundle", "bundle.json", scores),
        Target("sessions bundle", shop / "bundle", "bundle.json", lists),
        Target("model folder", ratings / "model", "model.json", model),
        Target("features' state", ratings / "features", "manifest.json", state),
        Target("checkpoint", ratings / "checkpoint", "", _checkpoint),
    ]


def _made(recipe: str, log: Path, overrides: list[str]) -> Params:
    """Runs the stages from the log to the model or bundle, each with its output beside it."""
    params = Params.read([], overrides)
    folder = log.parent
    ingest(recipe, params.section(f"{recipe}.source"), log, folder / "raw")
    preprocess(recipe, folder / "raw", folder / "features", params)
    train(recipe, folder / "features", folder / "model", params)
    if recipe != "interactions":
        export(recipe, folder / "features", folder / "model", folder / "bundle", params)
    return params


def _make_ranking(folder: Path) -> None:
    draw = np.random.default_rng(0)
    rows = [
        {
            "user": int(draw.zipf(1.6) % 30),
            "page": None if row % 17 == 0 else f"page {draw.zipf(1.6) % 20}, ☂",
            "shop": f"shop {row % 5}",
            "price": None if row % 11 == 0 else round(float(draw.normal()), 3),
            "age": None if row % 7 == 0 else float(draw.integers(0, 60)),
            "title": [row / 100, -1.0],
            "click": int(draw.random() < 0.4),
        }
        for row in range(ROWS)
    ]
    log = folder / "log.jsonl"
    pl.DataFrame(rows).write_ndjson(log)
    params = _made("ranking", log, RANKING)
    source = params.section("ranking.source").without_labels()
    ingest("ranking", source, log, folder / "asked", quiet=True)


def _scores(folder: Path, raw: Path) -> bytes:
    loaded = Bundle(folder)
    loaded.require("ranking", "score")
    return answers(loaded, raw)


def answers(loaded: Bundle, raw: Path) -> bytes:
    """What a bundle makes of an ingested log: scores or lists."""
    manifest = read_json(raw / "manifest.json")
    if loaded.recipe == "ranking":
        probabilities = np.concatenate(list(clicks.probabilities(loaded, raw, manifest)))
        tables.check_finite(probabilities, str, loaded.folder)
        return probabilities.tobytes()
    events = next_items.read_events(loaded, raw, manifest, ["session_id"])
    return next_items.lists_of(loaded, events, 5).write_csv().encode()


def _make_sessions(folder: Path) -> None:
    draw = np.random.default_rng(0)
    lines = ["session_id,item_id,timestamp,category,brand,price"]
    for session in range(60):
        for place, item in enumerate(draw.zipf(1.4, 5) % 12):
            at = 1_600_000_000 + 3600 * session + 60 * place
            price = "" if item == 3 else item * 1.5
            lines.append(f"s{session},item {item},{at},kind {item % 3},b{item % 2},{price}")
    log = folder / "log.csv"
    log.write_text("\n".join(lines) + "\n")
    params = _made("sessions", log, SESSIONS)
    asked = folder / "asked.csv"
    asked.write_text("\n".join([*lines[:40], "new,other,1700000000,kind 1,b0,3"]) + "\n")
    ingest("sessions", params.section("sessions.source"), asked, folder / "asked", quiet=True)


def _recommended(folder: Path, raw: Path) -> bytes:
    loaded = Bundle(folder)
    loaded.require("sessions", "recommend")
    return answers(loaded, raw)


def _make_interactions(folder: Path) -> None:
    draw = np.random.default_rng(1)
    lines = ["user_id,item_id,rating,timestamp"]
    for user in range(20):
        for time, item in enumerate(draw.permutation(15)[:8]):
            stars = 1 + int(item + user) % 5
            lines.append(f"{user},{item},{stars},{1_500_000_000 + 100 * time + user}")
    log = folder / "log.csv"
    log.write_text("\n".join(lines) + "\n")
    _made("interactions", log, INTERACTIONS)
    kept = folder / "checkpoint"
    kept.mkdir()
    newest = sorted((folder / "model" / "checkpoints").glob("step-*"))[-1]
    shutil.copyfile(newest, kept / CHECKPOINT)
    shutil.rmtree(folder / "model" / "checkpoints")


def _model(folder: Path, features: Path) -> bytes:
    def load() -> Any:
        return load_model(folder, read_schema(features), features)[0]

    model = reading(load)
    users = {name: torch.arange(3, 9) for name in model.input_names}
    with torch.inference_mode():
        return model.scores((users, None)).numpy().tobytes()


def _state(folder: Path, raw: Path) -> bytes:
    settings = Params.read([], INTERACTIONS).section("interactions.preprocess").workflow

    def load() -> Any:
        with open_features(folder).watched() as contents:
            read_schema(folder, contents)
            state = folder / "state"
            inputs = saved_schema(state, "input", contents)
            return load_state(interactions.build(settings), state, inputs, contents)

    workflow = reading(load)
    events = pl.read_parquet(raw / "*.parquet").head(40)
    rows = interactions.as_frame(sessionize.to_pandas(events.to_arrow()), "test")
    return workflow.transform(rows[workflow.input_schema.column_names]).to_csv().encode()


def _checkpoint(folder: Path) -> bytes:
    found = checkpoints.load(folder / CHECKPOINT)
    digest = hashlib.sha256(repr(found.state).encode())
    for name, tensor in found.tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()
