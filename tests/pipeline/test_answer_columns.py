"""What ``recommend`` reads of a log, and what it calls the columns of its lists."""

import csv
import itertools
import json
import random

import polars as pl
import pytest

from core.errors import UserError
from core.sums import write_manifest
from pipeline.params import Params
from pipeline.scoring import recommend
from pipeline.stages.export import export
from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import preprocess
from pipeline.stages.train import train

START, SESSIONS = 1_600_000_000, 60
SIDE = {
    "category": ["category"],
    "brand": ["brand"],
    "price": ["price"],
    "size": ["size"],
    "price_bucket": ["price"],
    "category_X_brand": ["category", "brand"],
    "gap": [],
    "title_1": ["title"],
}
"""Features, and the columns that each needs."""
ALWAYS = ["session_id", "item_id", "timestamp"]
OTHERS = ["category", "brand", "price", "size", "title", "user_id", "event_type"]


def events(rng, sessions=SESSIONS):
    for number in range(sessions):
        for step in range(rng.randrange(2, 7)):
            item = min(rng.randrange(15), rng.randrange(15))
            yield {
                # A few ids have a leading zero, and few are no numbers.
                "session_id": f"{number:03d}" if number % 20 == 7 else str(number),
                "item_id": f"{item:04d}" if item == 3 else f"{985 + item}",
                "timestamp": START + number * 3600 + step * 60,
                "category": str(item % 3),
                "brand": f"b{item % 2}",
                "price": rng.choice(("", "1.5", "30")),
                "size": str(rng.randrange(5)),
                "title": f"[{item}, {-item}]",
                "user_id": f"u{number % 9}",
                "event_type": rng.choice(("view", "cart")),
            }


def write(path, rows, names, separator=","):
    with open(path, "w", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps({n: row[n] for n in names}) + "\n" for row in rows)
        else:
            writer = csv.writer(file, delimiter=separator)
            writer.writerows([names, *([row[name] for name in names] for row in rows)])
    return path


def settings(**more):
    columns = {name: name for name in [*ALWAYS, *OTHERS] if name not in ("size", "title")}
    tree = {
        "source": {"columns": columns, "extra_continuous": ["size"], "vectors": ["title"],
                   "types": {"item_id": "string"}},
        "preprocess": {
            "split": {"test": 0.1, "valid": 0},
            "workflow": {
                "categorical": ["category", "brand", "event_type"],
                "continuous": ["price", "size"],
                "columns": {"price": {"bucketize": [2]}, "size": {"missing": "median"}},
                "crosses": [{"columns": ["category", "brand"]}],
                "vectors": {"title": 2},
            },
        },
        "train": {"epochs": 1, "batch_size": 16, "threads": 1},
    }  # fmt: skip
    return Params({"cluster": {"workers": 1}, "sessions": {**tree, **more}})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    rows = list(events(random.Random(0)))
    log = write(folder / "log.csv", rows, [*ALWAYS, *OTHERS])
    params = settings()
    ingest("sessions", params.section("sessions.source"), log, folder / "raw", quiet=True)
    preprocess("sessions", folder / "raw", folder / "features", params)
    return folder, rows


def bundle_of(folder, made, side):
    small = {"d_model": 8, "heads": 1, "layers": 1, "max_length": 6, "side_features": side}
    params = settings(model="sasrec", sasrec=small)
    train("sessions", made / "features", folder / "model", params)
    export("sessions", made / "features", folder / "model", folder / "bundle", params)
    return folder / "bundle"


def lists(answers):
    """The items of each session, and their scores."""
    return {
        name: (group["item_id"].to_list(), group["score"].to_list())
        for (name,), group in answers.group_by("session_id", maintain_order=True)
    }


def near(expected):
    """The same with scores that are nearly these: how many sessions are scored together changes
    their last digits."""
    return {name: (items, pytest.approx(s, rel=1e-5)) for name, (items, s) in expected.items()}


@pytest.mark.parametrize("seed", range(4))
def test_only_columns_that_the_model_reads_are_needed(made, tmp_path, seed):
    folder, rows = made
    rng = random.Random(seed)
    side = rng.sample(list(SIDE), rng.randrange(3))
    bundle = bundle_of(tmp_path, folder, side)
    needed = {*ALWAYS, *itertools.chain.from_iterable(SIDE[name] for name in side)}
    whole = write(tmp_path / "whole.csv", rows, [*ALWAYS, *OTHERS])
    expected = recommend(bundle, whole, tmp_path / "next.csv", k=5)
    log = write(tmp_path / "log.csv", rows, rng.sample(sorted(needed), len(needed)))
    assert lists(recommend(bundle, log, tmp_path / "next.csv", k=5)) == near(lists(expected))


def test_types_are_those_of_the_log_that_trained(made, tmp_path):
    """Whatever the values of a day look like, however its files are made."""
    folder, rows = made
    bundle = bundle_of(tmp_path, folder, ["category"])
    names = [*ALWAYS, "category"]
    whole = write(tmp_path / "whole.csv", rows, names)
    expected = near(lists(recommend(bundle, whole, tmp_path / "next.csv", k=5)))
    rng = random.Random(0)
    for trial in range(12):
        some = {str(rng.randrange(SESSIONS)) for _ in range(rng.randrange(1, 9))}
        if trial % 3 == 0:
            some = {"007"}
        asked = [row for row in rows if row["session_id"] in some]
        if not asked:
            continue
        log = tmp_path / rng.choice(("a.csv", "a.jsonl", "a.tsv"))
        separator = "\t" if log.suffix == ".tsv" else rng.choice(",;|")
        write(log, asked, rng.sample(names, len(names)), separator)
        answers = lists(recommend(bundle, log, tmp_path / "next.csv", k=5))
        assert answers == {name: expected[name] for name in answers}
        assert {*answers} == {row["session_id"] for row in asked}


def test_a_text_among_integers_is_a_bad_line(made, tmp_path, capsys):
    folder, rows = made
    plain = [row for row in rows if row["item_id"] != "0003"]
    params = settings(source={"columns": {name: None for name in OTHERS if name not in
                                          ("size", "title")}}, model="popular",
                      preprocess={"split": {"test": 0.1, "valid": 0}})  # fmt: skip
    log = write(folder / "integers.csv", plain, ALWAYS)
    ingest("sessions", params.section("sessions.source"), log, tmp_path / "raw", quiet=True)
    preprocess("sessions", tmp_path / "raw", tmp_path / "features", params)
    train("sessions", tmp_path / "features", tmp_path / "model", params)
    export("sessions", tmp_path / "features", tmp_path / "model", tmp_path / "bundle", params)
    today = [{"session_id": s, "item_id": i, "timestamp": START} for s, i in
             (("ann", 990), ("bob", 991), ("5", "brand new"), ("5", 990))]  # fmt: skip
    for form in ("today.csv", "today.jsonl"):
        log = write(tmp_path / form, today, ALWAYS)
        answers = recommend(tmp_path / "bundle", log, tmp_path / "next.csv", k=3)
        assert answers["session_id"].unique().sort().to_list() == ["5", "ann", "bob"]
        assert {*answers["source"]} == {"model"}
        line = 4 if form.endswith("csv") else 3
        output = " ".join(capsys.readouterr().out.split())
        assert f"{form}:{line}: item_id: not a 64-bit integer: 'brand new'" in output


def test_answer_columns_have_the_names_of_the_log(made, tmp_path):
    """Also where the log has names of ours, and ids of a user's sessions."""
    folder, _ = made
    columns = {name: None for name in OTHERS if name not in ("size", "title")}
    columns |= {"session_id": "rank", "user_id": "who", "item_id": "source", "timestamp": "score"}
    params = settings(source={"columns": columns, "session_per_user": True}, model="popular",
                      preprocess={"split": {"test": 0.1, "valid": 0}})  # fmt: skip
    rng = random.Random(0)
    rows = [
        {
            "rank": visit,
            "who": user,
            "source": rng.randrange(9),
            "score": START + user * 3600 + step * 60,
        }
        for user, visit, step in itertools.product(range(12), range(3), range(3))
    ]
    log = write(folder / "named.csv", rows, ["rank", "who", "source", "score"])
    ingest("sessions", params.section("sessions.source"), log, tmp_path / "raw", quiet=True)
    preprocess("sessions", tmp_path / "raw", tmp_path / "features", params)
    train("sessions", tmp_path / "features", tmp_path / "model", params)
    export("sessions", tmp_path / "features", tmp_path / "model", tmp_path / "bundle", params)
    for form in ("today.csv", "today.parquet"):
        if form.endswith("parquet"):
            pl.DataFrame(rows).write_parquet(tmp_path / form)
        else:
            write(tmp_path / form, rows, ["rank", "who", "source", "score"])
        for _ in range(2):  # An output is known again by its columns.
            answers = recommend(tmp_path / "bundle", tmp_path / form, tmp_path / "next.csv", k=2)
        assert answers.columns == ["who", "rank", "rank_", "source", "score", "source_"]
        pairs = {(str(row["who"]), str(row["rank"])) for row in rows}
        asked = answers.select("who", "rank").cast(pl.String)
        assert {*asked.iter_rows()} == pairs and len(answers) == 2 * len(pairs)


def test_a_bundle_without_types_reads_with_those_of_its_vocabularies(made, tmp_path):
    folder, rows = made
    bundle = bundle_of(tmp_path, folder, ["category"])
    record = json.loads((bundle / "bundle.json").read_text())
    assert record["source"]["types"]["item_id"] == "string"
    log = write(tmp_path / "log.csv", rows[:20], [*ALWAYS, "category"])
    expected = recommend(bundle, log, tmp_path / "next.csv")
    record["source"]["types"] = {}
    write_manifest(bundle / "bundle.json", record, record["checksums"])
    assert recommend(bundle, log, tmp_path / "next.csv").equals(expected)


def test_growth_by_a_day_whose_ids_have_another_type_names_the_setting(made, tmp_path):
    """Texts have trained, integers come: the message names the setting of types."""
    days = [
        [{"session_id": n, "item_id": item, "timestamp": START + day * 86_400 + n * 60 + step}
         for n in range(day * 20, day * 20 + 20) for step, item in enumerate(items)]
        for day, items in enumerate([("0985", "7", "0985"), (5, 7, 5)])
    ]  # fmt: skip
    source = {"columns": {name: None for name in OTHERS if name not in ("size", "title")}}
    params = settings(source=source, preprocess={"split": {"test": 0.1, "valid": 0}})
    for day, rows in enumerate(days):
        log = write(tmp_path / f"{day}.csv", rows, ALWAYS)
        ingest("sessions", params.section("sessions.source"), log, tmp_path / f"raw{day}")
    preprocess("sessions", tmp_path / "raw0", tmp_path / "features", params)
    message = (
        r"item_id \(int64\).*item_id \(string\).*--set 'sessions.source.types={item_id: string}'"
    )
    with pytest.raises(UserError, match=message):
        preprocess("sessions", tmp_path / "raw1", tmp_path / "features", params, grow=True)
    params = settings(source={**source, "types": {"item_id": "string"}},
                      preprocess={"split": {"test": 0.1, "valid": 0}})  # fmt: skip
    ingest("sessions", params.section("sessions.source"), tmp_path / "1.csv", tmp_path / "raw1")
    manifest = preprocess("sessions", tmp_path / "raw1", tmp_path / "features", params, grow=True)
    assert manifest["cardinality"]["item_id"] == 3 + 3


def test_a_session_that_is_a_row_without_an_id_is_named_by_its_line(tmp_path):
    rng = random.Random(0)
    rows = [[f"i{rng.randrange(9)}" for _ in range(rng.randrange(2, 6))] for _ in range(60)]
    columns = {name: None for name in OTHERS if name not in ("size", "title")}
    columns |= {"session_id": None, "timestamp": None, "item_id": "items"}
    params = settings(source={"columns": columns, "layout": "sessions"}, model="popular",
                      preprocess={"split": {"test": 0.1, "valid": 0}})  # fmt: skip
    log = tmp_path / "log"
    log.mkdir()
    for name, part in (("a", rows[:30]), ("b", [[], *rows[30:]])):
        pl.DataFrame({"items": part}).write_parquet(log / f"{name}.parquet")
    ingest("sessions", params.section("sessions.source"), log, tmp_path / "raw", quiet=True)
    preprocess("sessions", tmp_path / "raw", tmp_path / "features", params)
    train("sessions", tmp_path / "features", tmp_path / "model", params)
    export("sessions", tmp_path / "features", tmp_path / "model", tmp_path / "bundle", params)
    answers = recommend(tmp_path / "bundle", log, tmp_path / "next.csv", k=2)
    assert answers.columns == ["file", "line", "rank", "items", "score", "source"]
    expected = {(str(log / "a.parquet"), line) for line in range(1, 31)}
    expected |= {(str(log / "b.parquet"), line) for line in range(2, 32)}
    assert {*answers.select("file", "line").iter_rows()} == expected
    answers = recommend(tmp_path / "bundle", log / "b.parquet", tmp_path / "next.csv", k=2)
    assert answers.columns == ["line", "rank", "items", "score", "source"]
    assert answers["line"].unique().sort().to_list() == list(range(2, 32))
    for line, items in answers.group_by("line").agg("items").iter_rows():
        assert rows[30 + line - 2][-1] not in items
