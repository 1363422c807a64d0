"""Names of made columns are never those of the log's, or of others: refused before any work."""

import random

import pytest

from core.errors import UserError
from core.settings import validate
from pipeline.ingest.clicks import ClickSourceSettings
from pipeline.preprocess_ranking import RankingPreprocessSettings, preprocess_ranking
from pipeline.preprocess_sessions import SessionsPreprocessSettings
from pipeline.stages.ingest import ingest
from workflows import interactions, ranking, sessions
from workflows.interactions import InteractionsWorkflowSettings
from workflows.ranking import RankingWorkflowSettings
from workflows.sessions import SessionsWorkflowSettings

RANKING = {
    "labels": ["y"],
    "categorical": ["a", "b"],
    "continuous": ["n"],
    "vectors": {"v": 3},
    "missing_indicators": True,
    "dense_levels": True,
    "target_encoding": ["a"],
    "target_crosses": [["a", "n"]],
    "target_counts": True,
    "counts": ["b"],
    "crosses": [["a", "b"]],
    "shared_vocabularies": [["a", "b"]],
    "columns": {"n": {"bucketize": [0.5]}},
}
SESSIONS = {
    "categorical": ["a", "b"],
    "continuous": ["n"],
    "vectors": {"v": 3},
    "crosses": [["a", "b"]],
    "shared_vocabularies": [["a", "b"]],
    "columns": {"n": {"bucketize": [0.5]}},
}
INTERACTIONS = {
    "target_encoding": ["user_id"],
    "counts": ["item_id"],
    "crosses": [["user_id", "item_id"]],
}


def made(settings):
    return [name for name, _ in (*settings.made_names(), *settings.made_keys())]


CLICKS = made(RankingWorkflowSettings.model_validate(RANKING))
EVENTS = made(SessionsWorkflowSettings.model_validate(SESSIONS))


def test_every_column_that_is_made_is_known():
    """Those of the workflow's output are the log's own and those that the settings say."""
    settings = RankingWorkflowSettings.model_validate(RANKING)
    workflow = ranking.build(settings)
    workflow.fit_schema(ranking.raw_schema(settings))
    expected = {"y", "a", "b", "n", *CLICKS} - {"training", "a_b"}
    assert set(workflow.output_schema.column_names) == expected

    settings = SessionsWorkflowSettings.model_validate(SESSIONS)
    workflow = sessions.build(settings, ["session_id", "item_id", "timestamp", *"abnv"])
    schema = ranking.Schema(
        [ranking.ColumnSchema(name) for name in ("session_id", "item_id", "timestamp", *"abnv")]
    )
    workflow.fit_schema(schema)
    expected = {*"abn", *EVENTS} - {"timestamp", "a_b"}
    assert set(workflow.output_schema.column_names) == expected

    settings = InteractionsWorkflowSettings.model_validate(INTERACTIONS)
    names = ("user_id", "item_id", "rating", "timestamp", "training")
    workflow = interactions.build(settings)
    workflow.fit_schema(ranking.Schema([ranking.ColumnSchema(name) for name in names]))
    assert set(workflow.output_schema.column_names) == {*names[:4], *made(settings)}


@pytest.mark.parametrize("name", CLICKS)
@pytest.mark.parametrize("kind", ["categorical", "continuous", "labels", "vectors"])
def test_a_click_log_with_such_a_column(name, kind):
    more = {name: 2} if kind == "vectors" else [name]
    if kind == "vectors":
        given = {**RANKING, "vectors": {**RANKING["vectors"], **more}}
    else:
        given = {**RANKING, kind: [*RANKING[kind], *more]}
    with pytest.raises(UserError, match="two columns would be called") as caught:
        validate(RankingWorkflowSettings, given, "here")
    assert repr(name) in str(caught.value) and kind in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name in EVENTS if name not in ("item_id", "session_id", "timestamp")]
)
@pytest.mark.parametrize("kind", ["categorical", "continuous"])
def test_a_clickstream_with_such_a_column(name, kind):
    given = {**SESSIONS, kind: [*SESSIONS[kind], name]}
    with pytest.raises(UserError, match="two columns would be called") as caught:
        validate(SessionsWorkflowSettings, given, "here")
    assert repr(name) in str(caught.value) and kind in str(caught.value)


@pytest.mark.parametrize("name", ["_order", "_group", "_start", "event_order"])
def test_columns_that_bring_events_together(name):
    given = {"workflow": {"categorical": [name], "continuous": []}}
    with pytest.raises(UserError, match=f"two columns would be called '{name}'"):
        validate(SessionsPreprocessSettings, given, "here")


@pytest.mark.parametrize(
    "given",
    [
        {"crosses": [["a", "b"], ["a", "b"]]},
        {
            "categorical": ["a", "b", "a_X_b"],
            "target_encoding": ["a_X_b"],
            "target_crosses": [["a", "b"]],
        },
        {
            "categorical": ["a_b", "c", "a", "b_c"],
            "shared_vocabularies": [["a_b", "c"], ["a", "b_c"]],
        },
        {"categorical": ["a_X_b", "c", "a", "b_X_c"], "crosses": [["a_X_b", "c"], ["a", "b_X_c"]]},
        {"vectors": {"v": 3, "v_1": 2}, "categorical": ["v_1_0"]},
    ],
)
def test_settings_that_make_the_same_name(given):
    plain = {"labels": ["y"], "categorical": ["a", "b"], "continuous": [], **given}
    with pytest.raises(UserError, match="two columns would be called"):
        validate(RankingWorkflowSettings, plain, "here")


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_names_that_no_tool_takes(name):
    with pytest.raises(UserError, match="a column's name needs one character"):
        validate(RankingWorkflowSettings, {**RANKING, "categorical": ["a", "b", name]}, "here")


@pytest.mark.parametrize("seed", range(30))
def test_random_settings_are_refused_or_make_each_name_once(seed):
    rng = random.Random(seed)
    parts = [
        "a",
        "b",
        "a_X_b",
        "a_b",
        "a_count",
        "n",
        "n_level",
        "n_filled",
        "TE_a_y",
        "v_0",
        "n_bucket",
    ]
    names = rng.sample(parts, rng.randrange(3, 8))
    cut = rng.randrange(1, len(names))
    codes, numbers = names[:cut], names[cut:]
    given = {
        "labels": ["y"],
        "categorical": codes,
        "continuous": numbers,
        "missing_indicators": rng.random() < 0.5,
        "dense_levels": rng.random() < 0.5,
        "counts": rng.sample(codes, rng.randrange(len(codes) + 1)),
        "target_encoding": rng.sample(codes, rng.randrange(len(codes) + 1)),
        "crosses": [rng.sample(codes, 2)] if len(codes) > 1 else [],
        "columns": {numbers[0]: {"bucketize": [1.0]}},
    }
    try:
        settings = validate(RankingWorkflowSettings, given, "here")
    except UserError as error:
        assert "two columns would be called" in str(error)
        return
    workflow = ranking.build(settings)
    workflow.fit_schema(ranking.raw_schema(settings))
    outputs = workflow.output_schema.column_names
    expected = ["y", *names, *made(settings)]
    expected.remove("training")
    assert sorted(outputs) == sorted(expected) and len({*outputs}) == len(outputs)


@pytest.fixture(scope="module")
def mixed_log(tmp_path_factory):
    """A raw click log: ``i`` integers, ``t`` texts, ``n`` numbers."""
    folder = tmp_path_factory.mktemp("mixed")
    lines = [f"{row % 2},{row % 7},x{row % 5},{row}.5" for row in range(200)]
    (folder / "log.csv").write_text("\n".join(["y,i,t,n", *lines]) + "\n")
    columns = {"labels": ["y"], "categorical": ["i", "t"], "continuous": ["n"]}
    source = ClickSourceSettings.model_validate({"columns": columns})
    ingest("ranking", source, folder / "log.csv", folder / "raw", quiet=True)
    return folder / "raw"


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"shared_vocabularies": [["i", "t"]]}, [".shared_vocabularies:", "i (int64), t (string)"]),
        ({"categorical": ["i", "t", "n"], "continuous": []}, [".categorical:", "n was read as f"]),
        ({"continuous": ["t"], "categorical": ["i"]}, [".continuous:", "t was read as string"]),
        ({"labels": ["t"], "categorical": ["i"]}, [".labels:", "t was read as string"]),
        ({"vectors": {"t": 2}, "categorical": ["i"]}, [".vectors:", "t was read as string"]),
    ],
)
def test_types_are_checked_before_any_work(tmp_path, mixed_log, given, parts):
    workflow = {"labels": ["y"], "categorical": ["i", "t"], "continuous": ["n"], **given}
    settings = RankingPreprocessSettings.model_validate({"workflow": workflow})
    with pytest.raises(UserError) as caught:
        preprocess_ranking(mixed_log, tmp_path / "features", settings)
    assert all(part in str(caught.value) for part in ("ranking.preprocess.workflow", *parts))
    assert not (tmp_path / "features" / "plan.json").exists()
