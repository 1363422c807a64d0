"""Ids of all 64 bits with gaps among them: each keeps its own code, against plain dictionaries."""

import itertools
import random
from collections import Counter

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import frames
from core.artifacts import read_json
from core.errors import UserError
from core.merlin import ops
from pipeline.ingest.clicks import ClickColumns, ClickSourceSettings
from pipeline.ingest.clickstream import ClickstreamColumns, ClickstreamSourceSettings
from pipeline.preprocess_ranking import RankingPreprocessSettings, preprocess_ranking
from pipeline.preprocess_sessions import SessionsPreprocessSettings, preprocess_sessions
from pipeline.stages.ingest import ingest
from workflows.ops import Categorify, CountEncoding, HashBucket, HashedCross, JointValues
from workflows.ops.values import as_values

LEAST, GREATEST = -(2**63), 2**63 - 1
EXTREMES = [LEAST, LEAST + 1, GREATEST, GREATEST - 1, 2**53, 2**53 + 1, -(2**53) - 1, 0, -1, 5]
NULL, UNKNOWN, FIRST = 1, 2, 3

gappy = st.one_of(st.none(), st.integers(LEAST, GREATEST), st.sampled_from(EXTREMES))
MINUTE = 60_000


def ids_with_gaps(rng, rows, distinct=40):
    known = [*EXTREMES, *(rng.randrange(LEAST, GREATEST + 1) for _ in range(distinct))]
    known += [value + 1 for value in known if value < GREATEST]  # the same number as a float
    return [None if rng.random() < 0.2 else rng.choice(known) for _ in range(rows)]


def reference(training):
    counts = Counter(value for value in training if value is not None)
    ranked = sorted(counts, key=lambda value: (-counts[value], value))
    return {value: FIRST + rank for rank, value in enumerate(ranked)}


def codes_of(known, values):
    return [NULL if value is None else known.get(value, UNKNOWN) for value in values]


def arrow_frame(values):
    return frames.from_arrow(pa.table({"x": pa.array(values, pa.int64())}))


def in_parts(values, cuts):
    bounds = sorted({0, *(cut % (len(values) + 1) for cut in cuts), len(values)})
    return [values[a:b] for a, b in itertools.pairwise(bounds)]


def fitted(operator, parts):
    selector = ops.ColumnSelector(["x"])
    partials = [operator.fit(selector, arrow_frame(part)) for part in parts]
    operator.fit_finalize(partials[0].combine([partial.statistics for partial in partials]))
    return lambda values: operator.transform(selector, arrow_frame(values)).iloc[:, 0].tolist()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(gappy, min_size=1, max_size=40),
    st.lists(st.integers(0, 99), max_size=5),
    st.lists(gappy, max_size=20),
)
def test_operators_know_each_integer_whatever_the_parts(training, cuts, others):
    parts = in_parts(training, cuts)
    encode = fitted(Categorify(), parts)
    assert encode(training + others) == codes_of(reference(training), training + others)

    count = fitted(CountEncoding(), parts)
    counts = Counter(value for value in training if value is not None)
    counted = np.rint(np.expm1(count(training + others))).tolist()
    assert counted == [counts[value] for value in training + others]


@settings(max_examples=60, deadline=None)
@given(st.lists(gappy, min_size=1, max_size=30))
def test_hashes_do_not_depend_on_gaps(values):
    selector = ops.ColumnSelector(["x"])
    with_gaps, without = arrow_frame([*values, None]), arrow_frame([v or 0 for v in values])
    for operator, two in ((HashBucket(1000), False), (HashedCross(1000), True)):
        chosen, frame, plain = selector, with_gaps, without
        if two:
            chosen = ops.ColumnSelector(["x", "y"])
            frame, plain = frame.assign(y=with_gaps["x"]), plain.assign(y=without["x"])
        codes = operator.transform(chosen, frame).iloc[:, 0].tolist()
        expected = operator.transform(chosen, plain).iloc[:, 0].tolist()
        for value, code, other in zip(values, codes, expected, strict=False):
            assert code == (NULL if value is None else other)
    joint = JointValues((("x", "y"),))
    pairs = [joint.frame(f.assign(y=f["x"]))["x_X_y"].tolist() for f in (with_gaps, without)]
    for value, here, there in zip(values, *pairs, strict=False):
        assert value is None or here == there


@pytest.mark.parametrize("values", [[0.5, 1.0], [2.0**60, None], [1e300]])
def test_floats_that_are_no_integers_are_refused(values):
    with pytest.raises(UserError, match="column x: category values are integers"):
        as_values(pd.Series(values, name="x"))


def test_integers_that_pandas_holds_as_floats_are_integers():
    for column in (pd.Series([5, None, 2]), pd.Series([5, None, 2], dtype="Int64")):
        assert as_values(column).to_pylist() == [5, None, 2]


def decoded(features, column):
    """What each code of ``column`` means."""
    (path,) = (features / "state").rglob(f"unique.{column}.parquet")
    values = pl.read_parquet(path, glob=False)["value"].to_list()
    return {NULL: None, **{FIRST + place: value for place, value in enumerate(values)}}


def split_of(features, name):
    paths = sorted((features / name).glob("*.parquet"))
    return pl.concat([pl.read_parquet(path, glob=False) for path in paths])


@pytest.mark.parametrize("seed", range(4))
def test_session_features_keep_each_integer(tmp_path, seed):
    rng = random.Random(seed)
    categories = ids_with_gaps(rng, 400)
    items = [value or 0 for value in ids_with_gaps(rng, 400)]
    rows = [
        (LEAST + number // 4 if number % 8 < 4 else GREATEST - number // 4, number * MINUTE)
        for number in range(400)
    ]
    log = pl.DataFrame(
        {
            "session_id": [session for session, _ in rows],
            "item_id": items,
            "timestamp": [time for _, time in rows],
            "kind": pl.Series(categories, dtype=pl.Int64),
        }
    )
    if seed % 2:
        log.write_csv(tmp_path / "log.csv")
    else:
        log.write_parquet(tmp_path / "log.parquet")
    source = ClickstreamSourceSettings(
        columns=ClickstreamColumns(category=None, brand=None, price=None),
        extra_categorical=["kind"],
        time_format="unix_ms",
    )
    path = tmp_path / ("log.csv" if seed % 2 else "log.parquet")
    ingest("sessions", source, path, tmp_path / "raw", quiet=True)
    made = SessionsPreprocessSettings.model_validate(
        {
            "sessions": {"drop_repeats": False},
            "workflow": {"categorical": ["kind"], "continuous": []},
            "events_per_part": rng.choice([7, 50, 1000]),
        }
    )
    features = tmp_path / "features"
    preprocess_sessions(tmp_path / "raw", features, made)
    of_session = log.group_by("session_id", maintain_order=True).agg("item_id", "kind")
    truth = {row[0]: row[1:] for row in of_session.iter_rows()}
    for column, place in (("item_id", 0), ("kind", 1)):
        meaning = decoded(features, column)
        training = []
        for split in ("train", "valid", "test"):
            for session, codes in split_of(features, split)["session_id", column].iter_rows():
                expected = truth[session][place]
                if split == "train":
                    training += expected
                    assert [meaning[code] for code in codes] == expected
                else:
                    assert codes == codes_of(reference(training), expected)
        assert meaning == {NULL: None, **{c: v for v, c in reference(training).items()}}


@pytest.mark.parametrize("seed", range(3))
def test_click_features_keep_each_integer(tmp_path, seed):
    rng = random.Random(seed)
    log = pl.DataFrame(
        {
            "click": [rng.randrange(2) for _ in range(300)],
            "a": pl.Series(ids_with_gaps(rng, 300), dtype=pl.Int64),
            "b": pl.Series(ids_with_gaps(rng, 300), dtype=pl.Int64),
        }
    )
    if seed % 2:
        log.write_ndjson(tmp_path / "log.jsonl")
    else:
        log.write_csv(tmp_path / "log.jsonl")
    path = (tmp_path / "log.jsonl").rename(tmp_path / ("log.jsonl" if seed % 2 else "log.csv"))
    columns = ClickColumns(labels=["click"], categorical=["a", "b"])
    ingest("ranking", ClickSourceSettings(columns=columns), path, tmp_path / "raw", quiet=True)
    made = RankingPreprocessSettings.model_validate(
        {
            "workflow": {
                "labels": ["click"],
                "categorical": ["a", "b"],
                "continuous": [],
                "freq_threshold": 1,
                "shared_vocabularies": [["a", "b"]] if seed else [],
                "target_encoding": ["a"],
                "counts": ["b"],
            },
            "rows_per_part": rng.choice([11, 64, 1000]),
        }
    )
    features = tmp_path / "features"
    preprocess_ranking(tmp_path / "raw", features, made)
    sizes = read_json(features / "manifest.json")["splits"]
    rows = sizes["train"]["rows"]
    both = log["a"][:rows].to_list() + log["b"][:rows].to_list()
    first = 0
    for split in ("train", "valid", "test"):
        here = split_of(features, split)
        for name in ("a", "b"):
            known = reference(both if seed else log[name][:rows].to_list())
            values = log[name][first : first + len(here)].to_list()
            assert here[name].to_list() == codes_of(known, values)
        first += len(here)
