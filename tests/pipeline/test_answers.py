"""Lists of ``recommend`` are those that evaluation judges, item by item, for every session model.

Logs have sessions longer than the features hold, repeats, items unseen in training and ties; the
settings of sessions, models, filters and lists are drawn at random.
"""

import csv
import random
from collections import defaultdict

import polars as pl
import pytest

from pipeline.feature_folder import read_schema
from pipeline.model_folder import load_model
from pipeline.params import Params
from pipeline.scoring import Bundle, recommend
from pipeline.stages.export import export
from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import preprocess
from pipeline.stages.train import train
from tests.training.session_models import LEARNING
from training.batches import Batches
from training.sessions import MODELS
from training.sessions.evaluation import rank_steps

START, HOUR = 1_600_000_000, 3600
NAMES = ("visit", "sku", "at", "kind", "cost")
SOURCE = {
    "columns": {
        "session_id": "visit", "item_id": "sku", "timestamp": "at", "category": "kind",
        "brand": None, "price": "cost", "user_id": None,
    }
}  # fmt: skip
LONGEST = 14


def random_log(rng, sessions=70, items=12):
    """Events by session, in time order; what comes late in the log also shows new items."""
    log = {}
    for number in range(sessions):
        late = number > sessions * 0.7
        at, events = START + number * HOUR, []
        for _ in range(rng.randrange(1, LONGEST)):
            at += rng.choice((0, 0, 30, 200))
            if events and rng.random() < 0.25:
                item = events[-1][1]
            elif late and rng.random() < 0.25:
                item = f"new {rng.randrange(3)}"
            else:
                item = f"0{min(rng.randrange(items), rng.randrange(items))}"
            kind = rng.choice(("a", "b", ""))
            events.append((number, item, at, kind, rng.choice(("", "1.5", "20"))))
        log[number] = events
    return log


def write(path, sessions):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([NAMES, *(event for events in sessions for event in events)])
    return path


class Made:
    """A log with its features."""

    def __init__(self, folder, seed):
        rng = random.Random(seed)
        self.folder, self.rng, self.log = folder, rng, random_log(rng)
        self.sessions = {
            "max_length": rng.choice((2, 3, 5, 8, 20)),
            "drop_repeats": rng.random() < 0.6,
        }
        self.tree = {
            "source": SOURCE,
            "preprocess": {
                "split": {"test": 0.3, "valid": 0.1},
                "sessions": self.sessions,
            },
            "train": {"epochs": 1, "batch_size": 16, "threads": 1},
        }
        self.raw, self.features = folder / "raw", folder / "features"
        path = write(folder / "log.csv", self.log.values())
        params = self.params()
        ingest("sessions", params.section("sessions.source"), path, self.raw, quiet=True)
        preprocess("sessions", self.raw, self.features, params)

    def params(self, **more):
        return Params({"cluster": {"workers": 1}, "sessions": {**self.tree, **more}})

    def rows(self):
        """Events of each session of the test split as the features hold them, and the events of the
        log that come before them."""
        ids = pl.read_parquet(self.features / "test" / "*.parquet")["session_id"].to_list()
        for number in ids:
            events = self.log[number]
            if self.sessions["drop_repeats"]:
                pairs = zip([None, *events], events, strict=False)
                events = [event for before, event in pairs if not before or before[1] != event[1]]
            cut = max(0, len(events) - self.sessions["max_length"])
            yield events[:cut], events[cut:]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Features by seed, made when first asked for."""
    kept = {}

    def get(seed):
        if seed not in kept:
            kept[seed] = Made(tmp_path_factory.mktemp(f"log{seed}"), seed)
        return kept[seed]

    return get


def model_settings(name, rng):
    chosen = {}
    if name in LEARNING:
        chosen = {"d_model": 8, "heads": 1, "layers": 1, "max_length": rng.choice((2, 4, 9))}
        chosen["side_features"] = rng.choice(([], ["gap"], ["category", "price", "hour_sin"]))
    known = MODELS[name][2].model_fields
    return {key: value for key, value in chosen.items() if key in known}


def evaluation_settings(rng):
    def maybe():
        return rng.random() < 0.5

    filters = ("drop_repeats", "exclude_last_item", "exclude_seen")
    return {"ks": [rng.randrange(1, 15)], **{name: maybe() for name in filters}}


def judged(made, model, settings, vocabulary):
    """The list that evaluation judges at every step of every test session that is asked for."""
    batches = Batches(
        made.features / "test", read_schema(made.features), 7, columns=model.columns, shuffle=False
    )
    lists, before = defaultdict(list), 0
    for batch in batches:
        steps = rank_steps(model, batch, settings)
        for row, items in zip(steps.sessions.tolist(), steps.lists.tolist(), strict=True):
            lists[before + row].append([vocabulary[item] for item in items if item >= 0])
        before += len(batch[0][f"{model.item}__offsets"]) - 1
    return lists


def asked(made, settings, known):
    """For each of these steps the events to ask for the next item after: what the features hold of
    the session before it; where it is the last event of the row, all that the log does."""
    for earlier, row in made.rows():
        steps, last = [], None
        for place, (_, item, *_) in enumerate(row):
            if item not in known or (settings.drop_repeats and item == last):
                continue
            if last is not None:
                whole = place == len(row) - 1
                steps.append([*(earlier if whole else ()), *row[:place]])
            last = item
        yield steps


def check(made, name, seed, folder):
    """Checks one model with settings that come from ``seed``; returns how many lists it took."""
    folder.mkdir()
    rng = random.Random(f"{name} {seed}")
    evaluate = evaluation_settings(rng)
    params = made.params(model=name, evaluate=evaluate, **{name: model_settings(name, rng)})
    train("sessions", made.features, folder / "model", params)
    export("sessions", made.features, folder / "model", folder / "bundle", params)
    settings = params.section("sessions.evaluate")
    loaded = Bundle(folder / "bundle")
    vocabulary = loaded.encoder.vocabulary["item_id"].to_pylist()
    model, _ = load_model(folder / "model", read_schema(made.features), made.features)
    expected = judged(made, model, settings, vocabulary)
    steps = list(asked(made, settings, {*vocabulary}))
    assert {row: len(lists) for row, lists in expected.items()} == {
        row: len(prefixes) for row, prefixes in enumerate(steps) if prefixes
    }
    log = {
        f"{row}/{n}": events
        for row, prefixes in enumerate(steps)
        for n, events in enumerate(prefixes)
    }
    lines = [[(visit, *event[1:]) for event in events] for visit, events in log.items()]
    rng.shuffle(lines)
    ask = write(folder / "ask.csv", lines)
    k = settings.ks[0]
    answers = recommend(folder / "bundle", ask, folder / "next.parquet", k=k)
    assert set(answers["source"]) <= {"model"}
    answered = dict(answers.group_by("visit", maintain_order=True).agg("sku").iter_rows())
    for row, lists in expected.items():
        for number, items in enumerate(lists):
            assert answered.get(f"{row}/{number}", []) == items, (name, seed, row, number)
    return len(log)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_recommended_is_what_evaluation_judges(made, tmp_path, name):
    first = list(MODELS).index(name)
    lists = [check(made(seed % 4), name, seed, tmp_path / str(seed)) for seed in (first, first + 1)]
    assert sum(lists) > 20
