"""What a new user's mistakes and first commands print, through the command line."""

import random
import re

import pytest
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from core.artifacts import read_json
from core.errors import UserError
from core.settings import parse_override, read_yaml
from pipeline.__main__ import main
from pipeline.params import Params
from pipeline.stages.ingest import ingest

SETTINGS = """
sessions:
  source:
    keep_event_types: [view]
    columns: {session_id: visit, item_id: sku, timestamp: at, event_type: what}
  train: {epochs: 1}
  model: gru4rec
"""
SHORT, LONG = 7, 60
"""Sessions of one event, and of several."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Features of a small clickstream, with what preprocessing printed in ``said.txt``."""
    folder = tmp_path_factory.mktemp("first")
    drawn = random.Random(3)
    lines = ["visit,sku,at,what"]
    for visit in range(SHORT + LONG):
        for event in range(1 if visit < SHORT else drawn.randint(2, 5)):
            at = f"2024-05-06T{visit // 4:02d}:{visit % 4:02d}:{event:02d}Z"
            lines += [f"{visit},p{(visit + event) % 9},{at},view", f"{visit},,{at},search"]
    (folder / "log.csv").write_text("\n".join(lines))
    (folder / "clicks.yaml").write_text(SETTINGS)
    (folder / "bad.yaml").write_text("source: {path: log.csv, workers: 1}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        given = ["--settings", "clicks.yaml"]
        assert main(["ingest", "sessions", *given, "--input", "log.csv"]) == 0
        assert main(["preprocess", "sessions", *given]) == 0
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs a command in the folder; gives its status and what it printed, in one line."""
    monkeypatch.chdir(folder)

    def run(*words):
        try:
            status = main(list(words))
        except SystemExit as left:
            status = left.code
        said = capsys.readouterr()
        return status, " ".join((said.out + said.err).split())

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "usage: merlin-pipeline .*stages: .*evaluate"),
        (["recomend", "--input", "x"], "did you mean 'recommend'"),
        (["ingest", "session"], "did you mean 'sessions'"),
        (["recommend", "sessions", "--input", "x", "--output", "y.csv"],
         "usage: merlin-pipeline recommend .*unrecognized arguments: sessions"),
    ],
)  # fmt: skip
def test_wrong_commands_print_suggestions_or_usage(run, words, said):
    status, printed = run(*words)
    assert status == 2 and re.search(said, printed)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "sessions", "--input", "data/sessions/raw"],
         "data/sessions/raw: a raw log, no features; name .*preprocess"),
        (["train", "ranking", "--input", "data/sessions/features"],
         "features of the recipe 'sessions', not of 'ranking'"),
        (["ingest", "sessions", "--input", "none.csv"], r"none.csv: no such file .*--input, or"),
        (["train", "sessions", "--set", "sessions.train.epochs=two"], "integer, got 'two'"),
        (["ingest", "sessions", "--set", "sessions.source.columns.item_id="], "string, got null"),
        (["use", "log.csv"], "log.csv: no settings file: .* got 'visit,sku.{,150}$"),
        (["use", "data"], "data: is a folder; name a settings file"),
        (["use", "bad.yaml"], "unknown setting 'source'; did you mean 'ranking.source' or "),
        (["settings", "sessions.trian"], "did you mean sessions.train\\?"),
        (["report"], "no metrics yet: none of metrics/ranking.json, .*evaluate"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_what_to_do(run, words, said):
    status, printed = run(*words)
    assert status == 1 and re.search(said, printed)


@pytest.mark.parametrize("name", ["", "a\0b"])
@pytest.mark.parametrize(
    "setting",
    [
        *(f"sessions.source.columns.{column}" for column in ("item_id", "timestamp", "price")),
        *(f"sessions.source.{column}" for column in ("extra_categorical", "vectors")),
        *(f"ranking.source.columns.{column}" for column in ("labels", "categorical", "timestamp")),
        "interactions.source.columns.user_id",
    ],
)
def test_a_column_without_a_name_is_refused_by_ingest(run, folder, setting, name):
    recipe, last = setting.split(".")[0], setting.split(".")[-1]
    several = last in ("extra_categorical", "vectors", "labels", "categorical")
    whole = {"labels": "[y]", "categorical": "[c]"} if recipe == "ranking" else {}
    value = '"' + name.replace("\0", "\\0") + '"'
    whole[last] = f"[{value}]" if several else value
    block = setting.rpartition(".")[0]
    sets = [word for key, text in whole.items() for word in ("--set", f"{block}.{key}={text}")]
    status, printed = run("ingest", recipe, "--input", "log.csv", "--output", "other", *sets)
    assert status == 1 and "needs one character at least" in printed and last in printed
    assert not (folder / "other").exists()


def test_lines_and_sessions_that_are_left_out_have_a_reason(run, folder):
    raw = read_json(folder / "data/sessions/raw/manifest.json")
    given = ["--settings", "clicks.yaml"]
    _, printed = run("ingest", "sessions", *given, "--input", "log.csv", "--output", "again")
    assert f"{raw['rows_filtered']} filtered by keep_event_types" in printed
    _, printed = run("preprocess", "sessions", *given)
    assert f"{SHORT} of {SHORT + LONG} sessions of the log are left out as too short" in printed
    assert re.search(r"preprocess: \d+ codes in 1 column → ", printed)


def test_errors_of_events_without_an_item_and_of_click_logs_name_the_setting(run):
    searches = ["--set", "sessions.source.keep_event_types=null", "--output", "none"]
    given = ["--settings", "clicks.yaml", "--input", "log.csv"]
    status, printed = run("ingest", "sessions", *given, *searches)
    assert status == 1 and "events without an item, as searches are" in printed
    assert "keep_event_types" in printed
    status, printed = run("ingest", "ranking", "--input", "log.csv", "--output", "none")
    assert status == 1 and "another click log in ranking.source.columns" in printed


def test_a_split_that_is_empty_has_no_share_of_unknown_values(run):
    given = ["--settings", "clicks.yaml", "--set", "sessions.preprocess.split={test: 0, valid: 0}"]
    assert run("preprocess", "sessions", *given, "--output", "all")[0] == 0
    places = ["--output", "data.json", "--plots", "pages"]
    status, printed = run("inspect", "sessions", "--features", "all", *places)
    assert status == 0 and re.search(r"item_id │ 0.00% │ 9 │ 9 │ │", printed)


def test_a_baseline_is_not_compared_with_itself_and_paths_are_relative(run, folder):
    given = ["--settings", "clicks.yaml", "--set", "sessions.model=sequential_rules"]
    _, printed = run("train", "sessions", *given, "--output", str(folder / "rules"))
    assert printed.endswith(" → rules")
    places = ["--model", "rules", "--metrics", str(folder / "m/rules.json"), "--plots", "m/p"]
    _, printed = run("evaluate", "sessions", *given, *places)
    assert "┃ sequential_rules ┃ always the most popular items ┃ ┡" in printed
    assert printed.endswith(" → m/rules.json, m/p")
    assert "sequential_rules" in read_json(folder / "m/rules.json")["baselines"]


def test_a_step_of_sessions_is_counted_in_sessions(run):
    status, printed = run("profile", "sessions", "--settings", "clicks.yaml", "--steps", "1")
    assert status == 0 and "rows/s" not in printed
    assert re.search(r"a step of \d+ sessions", printed) and " sessions/s)" in printed


def test_half_a_pair_of_utf16_is_refused_in_settings(tmp_path):
    drawn = random.Random(1)
    for _ in range(200):
        half = f"\\ud{drawn.choice('89abcdef')}{drawn.randrange(256):02x}"
        text = "".join(drawn.choice(["a", "é", half, "\\u00e9"]) for _ in range(3)) + half
        value = drawn.choice([f'"{text}"', f'[1, "{text}"]', f'{{"{text}": 1}}'])
        file = tmp_path / "settings.yaml"
        file.write_text(f"a: {value}", encoding="utf-8")
        with pytest.raises(UserError, match=r"settings.yaml: .*no valid text") as error:
            read_yaml(file)
        str(error.value).encode()
        with pytest.raises(UserError, match=r"--set a=.*no valid text"):
            parse_override(f"a={value}")
    file.write_text('a: "\\U0001F600 é"', encoding="utf-8")
    assert read_yaml(file) == {"a": "\U0001f600 é"}


def test_a_value_that_is_no_yaml_is_refused_in_a_line_that_says_how_to_write_it():
    drawn = random.Random(2)
    for _ in range(200):
        value = drawn.choice(",%@`&*|>") + "".join(drawn.choice("ab, %") for _ in range(3)).rstrip()
        try:
            YAML(typ="safe").load(value)
        except YAMLError:
            with pytest.raises(UserError, match=r"--set a.b=.*not valid YAML.*'a.b=\"") as error:
                parse_override(f"a.b={value}")
            assert "\n" not in str(error.value)
            assert parse_override(str(error.value).split("--set '")[-1][:-1]) == {"a": {"b": value}}
    with pytest.raises(UserError, match="close all quotes and brackets") as error:
        parse_override("a.b=[1, 2")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("words", [["phone", "desktop"], ["ad-1", "ad-2", "ad-3"], ["été", "7"]])
def test_a_text_column_among_continuous_ones_is_advised_to_be_categorical(tmp_path, words, decimal):
    rows = [f"{n % 2};{words[n % len(words)]};{n}" for n in range(60)]
    log = tmp_path / "log.csv"
    log.write_text("\n".join(["clicked;device;price", *rows]), encoding="utf-8")
    columns = {"labels": ["clicked"], "continuous": ["price", "device"]}
    given = Params({"ranking": {"source": {"columns": columns, "decimal": decimal}}})
    several = sum(word[0].isalpha() for word in words) > 1
    with pytest.raises(UserError, match="device") as error:
        ingest("ranking", given.section("ranking.source"), log, tmp_path / "raw")
    assert ("ranking.source.columns.categorical" in str(error.value)) == several


@pytest.mark.parametrize("lacking", ["user_id", "item_id", "rating", "timestamp"])
def test_a_missing_column_of_ratings_may_be_set_to_null_if_optional(tmp_path, lacking):
    names = [name for name in ("user_id", "item_id", "rating", "timestamp") if name != lacking]
    rows = [",".join(str(1_600_000_000 + n) for _ in names) for n in range(9)]
    (tmp_path / "log.csv").write_text("\n".join([",".join(names), *rows]), encoding="utf-8")
    given = Params({}).section("interactions.source")
    with pytest.raises(UserError, match=f"no column '{lacking}'") as error:
        ingest("interactions", given, tmp_path / "log.csv", tmp_path / "raw")
    may_lack = lacking in ("rating", "timestamp")
    assert ("set it to null if the log has none" in str(error.value)) == may_lack
    columns = {"interactions": {"source": {"columns": {lacking: None}}}}
    if may_lack:
        given = Params(columns).section("interactions.source")
        ingest("interactions", given, tmp_path / "log.csv", tmp_path / "raw")
