"""Models that count: the popularity floors, and what all of them have in common on the road."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.artifacts import write_parquet
from core.errors import UserError
from core.merlin import ColumnSchema, Schema
from core.tensors import read_tensors, write_tensors
from tests.training.counted import (
    CODES,
    COUNTING,
    HOUR,
    SCHEMA,
    counted,
    known,
    logs,
    prefixes,
    scores_after,
    timed,
)
from tests.training.session_examples import batch_of, session_schema
from training.batches import Batches
from training.checkpoints import load_weights, save_weights
from training.engine import EngineSettings
from training.sessions import build
from training.sessions.evaluation import evaluate_sessions
from training.sessions.fitting import fit_session_model

LOG = [[3, 4, 5], [3, 4], [8], [9, 4, 9, 3], [5, 6, 7, 8, 4]]
SIZED = {"item_knn": "partners", "vsknn": "session_items", "sequential_rules": "partners"}


@settings(max_examples=40, deadline=None)
@given(logs(), st.sampled_from([0.5, 6.0, 1e9]), st.integers(1, 4))
def test_recent_events_count_more(log, half_life, batches):
    model = counted("recently_popular", *log, batches=batches, half_life_hours=half_life)
    latest = max(log[1], default=0)
    expected = np.zeros(CODES)
    for session, start in zip(*log, strict=True):
        for item in session:
            expected[item] += 0.5 ** ((latest - start) / HOUR / half_life)
    np.testing.assert_allclose(scores_after(model, [[3], [4, 5]]), [expected] * 2, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(logs(), prefixes, st.sampled_from([1.0, 0.5]))
def test_items_of_the_session_then_the_popular_ones(log, asked, decay):
    model = counted("session_popular", *log, decay=decay, max_length=4)
    events = [item for session in known(log[0]) for item in session]
    for prefix, scores in zip(asked, scores_after(model, asked), strict=True):
        recent = prefix[-4:]
        weight = [sum(decay**back * (item == x) for back, x in enumerate(recent[::-1]))
                  for item in range(CODES)]  # fmt: skip
        order = sorted(range(3, CODES), key=lambda i: (weight[i], events.count(i)))
        keys = [(weight[i], events.count(i)) for i in order]
        for at, (low, high) in enumerate(itertools.pairwise(order)):
            equal = keys[at] == keys[at + 1]
            assert scores[low] == scores[high] if equal else scores[low] < scores[high]


def test_the_popular_floor_is_the_recent_one_that_never_fades():
    popular = counted("popular", LOG)
    recent = counted("recently_popular", LOG, half_life_hours=1e12)
    assert scores_after(popular, [[3]]).tolist() == pytest.approx(scores_after(recent, [[3]]))


@pytest.mark.parametrize("name", COUNTING)
def test_what_was_counted_survives_saving(name, tmp_path):
    model = counted(name, LOG)
    asked = [[3], [4, 3, 4], [11], [7, 5]]
    save_weights(tmp_path / "weights", model)
    again = build(name, SCHEMA, model.settings)
    load_weights(tmp_path / "weights", again)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
        assert tensor.dtype == again.state_dict()[key].dtype
    np.testing.assert_array_equal(scores_after(again, asked), scores_after(model, asked))
    # Over another state that was there before.
    other = counted(name, [[5, 6], [10, 11, 3]])
    scores_after(other, asked)
    other.load_state_dict(read_tensors(tmp_path / "weights")[0])
    np.testing.assert_array_equal(scores_after(other, asked), scores_after(model, asked))


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("value", [CODES, 2, -1])
def test_a_state_with_codes_that_do_not_exist_is_refused(name, value, tmp_path):
    model = counted(name, LOG)
    getattr(model, SIZED[name])[0] = value
    save_weights(tmp_path / "weights", model)
    with pytest.raises(UserError, match=r"weights: .*item codes outside of 3 to 11"):
        load_weights(tmp_path / "weights", build(name, SCHEMA))


@pytest.mark.parametrize(
    ("name", "key", "change"),
    [
        ("item_knn", "offsets", lambda t: t.flip(0)),
        ("item_knn", "strengths", lambda t: t[1:]),
        ("vsknn", "session_offsets", lambda t: t + 1),
        ("vsknn", "session_offsets", lambda t: t[:0]),
        ("vsknn", "session_starts", lambda t: t[1:]),
        ("vsknn", "session_items", lambda t: t[:, None]),
        ("vsknn", "holders", lambda t: t[1:]),
    ],
)
def test_a_state_that_does_not_fit_together_is_refused(name, key, change, tmp_path):
    model = counted(name, LOG)
    state = {**model.state_dict(), key: change(getattr(model, key))}
    write_tensors(tmp_path / "weights", state)
    with pytest.raises(UserError, match="weights: not the weights of this model"):
        load_weights(tmp_path / "weights", build(name, SCHEMA))


@pytest.mark.parametrize("name", COUNTING)
def test_a_model_that_saw_nothing_ranks_all_items_alike(name):
    scores = scores_after(counted(name, []), [[3], [5, 4]])[:, 6:]
    assert np.isfinite(scores).all()
    assert len(set(scores.ravel())) == 1


@pytest.mark.parametrize("name", COUNTING)
def test_sessions_of_one_event_and_unknown_items(name):
    model = counted(name, [[3], [2, 1], [7, 2], [7]])
    scores = scores_after(model, [[4]])[0, 3:]
    assert np.isfinite(scores).all()
    assert scores.argmax() + 3 == 7 or name == "session_popular"


@pytest.mark.parametrize("name", COUNTING)
def test_a_catalogue_of_one_item(name):
    schema = session_schema(items=4)
    model = counted(name, [[3, 3], [3]], schema=schema)
    assert scores_after(model, [[3], [3, 3]]).shape == (2, 4)
    report = evaluate_sessions(model, [batch_of([[3, 3, 3]])])
    assert report["predictions"] == 0


@pytest.mark.parametrize("name", COUNTING)
def test_an_empty_split_and_empty_sessions(name):
    model = counted(name, LOG)
    model.observe(timed([[], []]))
    model.observe(timed([]))
    model.finish()
    again = counted(name, LOG)
    np.testing.assert_array_equal(scores_after(model, [[3]]), scores_after(again, [[3]]))


@pytest.mark.parametrize("name", ["recently_popular", "vsknn"])
def test_features_without_start_times_are_told(name):
    schema = Schema([column for column in SCHEMA if column.name != "start"])
    with pytest.raises(UserError, match=r"no column 'start'.*run preprocess again"):
        build(name, schema)


@pytest.mark.parametrize("name", ["item_knn", "association_rules", "sequential_rules"])
def test_a_saved_model_that_cannot_be_trained_further_says_so(name, tmp_path):
    model = counted(name, LOG[:2])
    model.observe(timed(LOG[2:]))  # The model itself still has its sessions.
    model.finish()
    whole = counted(name, LOG)
    np.testing.assert_array_equal(scores_after(model, [[4]]), scores_after(whole, [[4]]))
    save_weights(tmp_path / "weights", model)
    again = build(name, SCHEMA)
    load_weights(tmp_path / "weights", again)
    with pytest.raises(UserError, match="cannot be trained further"):
        again.observe(timed(LOG))


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("vsknn", {"k": 0}, r"sessions\.vsknn: k: .*greater than or equal to 1"),
        ("vsknn", {"weighting": "cubic"}, r"sessions\.vsknn: weighting: .*'same'"),
        ("vsknn", {"max_length": 1}, "max_length: .*greater than or equal to 2"),
        ("item_knn", {"alpha": 1.5}, "alpha: .*less than or equal to 1"),
        ("item_knn", {"neighbors": 5}, "unknown setting 'neighbors'; did you mean 'neighbours'"),
        ("recently_popular", {"half_life_hours": 0}, "half_life_hours: .*greater than 0"),
    ],
)
def test_settings_that_do_not_fit_are_named(name, setting, message):
    with pytest.raises(UserError, match=message):
        build(name, SCHEMA, setting)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_loader_gives_times_in_milliseconds(unit, tmp_path):
    times = [0, 1_569_888_122, -5]
    scale = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[unit]
    start = pa.array([int(time * scale) for time in times], pa.timestamp(unit))
    items = pa.array([[3], [4, 5], [6]], pa.list_(pa.int32()))
    write_parquet(tmp_path / "part.parquet", pa.table({"item_id": items, "start": start}))
    schema = Schema([SCHEMA["item_id"], ColumnSchema("start", dtype="datetime64[ms]")])
    for shuffle in (False, True):
        ((inputs, _),) = Batches(tmp_path, schema, 8, shuffle=shuffle)
        assert sorted(inputs["start"].tolist()) == sorted(time * 1000 for time in times)


@pytest.mark.parametrize("name", COUNTING)
def test_from_parquet_to_saved_weights(name, tmp_path):
    generator = np.random.default_rng(4)
    for split, count in (("train", 300), ("valid", 50)):
        first = generator.integers(0, 9, count)
        lists = [[(at + step) % 9 + 3 for step in range(4)] for at in first]
        start = pa.array(generator.permutation(count) * HOUR, pa.timestamp("ms"))
        items = pa.array(lists, pa.list_(pa.int32()))
        table = pa.table({"item_id": items, "start": start})
        write_parquet(tmp_path / split / "part.parquet", table)
    model = build(name, SCHEMA)
    columns = [*model.columns, *model.observed]
    train = Batches(tmp_path / "train", SCHEMA, 64, columns=columns, shuffle=False)
    valid = Batches(tmp_path / "valid", SCHEMA, 64, columns=model.columns, shuffle=False)
    result = fit_session_model(model, train, valid, EngineSettings(epochs=3), tmp_path / "model")
    assert result.steps == math.ceil(300 / 64)
    if name in ("item_knn", "vsknn", "sequential_rules", "association_rules"):
        # Of nine items the next one of the cycle is among the first.
        assert result.metrics["mrr@10"] > (0.9 if name == "sequential_rules" else 0.4)
    again = build(name, SCHEMA)
    load_weights(tmp_path / "model" / "model.safetensors", again)
    again_found = evaluate_sessions(again, valid)
    assert {key: again_found[key] for key in result.metrics} == result.metrics
