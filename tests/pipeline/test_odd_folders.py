"""Every command where the names of folders look like patterns, homes, addresses or settings.

Each folder has a neighbour that the name would match if it were taken for a pattern; it holds files
of the same names that cannot be read.
"""

import json
import os
import random
import tempfile
from pathlib import Path

import polars as pl
import pytest

from pipeline.__main__ import main
from pipeline.ingest.inputs import list_inputs

START, DAY = 1_600_000_000 // 86_400 * 86_400, 86_400
ODD = "run[1]/a*b/x?y/{a,b}/~x/h#1/sp ace/%20/k=v/s3:/[!q]"
NEIGHBOUR = "run1/aXb/xzy/a/~x/h#1/sp ace/ /k=v/s3:/z"
COMMON = {
    "cluster": ["cluster.workers=1", "device=cpu"],
    "sessions": [
        "sessions.source.columns={category: null, brand: null, price: null, user_id: null}",
        "sessions.preprocess.split={kind: days}",
        "sessions.model=vsknn",
        "sessions.compare={entries: [popular], seeds: [1]}",
        "sessions.windows.first_test_day=2",
    ],
    "ranking": [
        "ranking.source.columns={labels: [click], categorical: [user, page], continuous: [price]}",
        "ranking.model=logistic_regression",
        "ranking.train={epochs: 1, batch_size: 64}",
        "ranking.compare={entries: [logistic_regression], seeds: [1]}",
    ],
    "interactions": ["interactions.train={epochs: 1, batch_size: 64}", "interactions.mf={}"],
}


def clicks(rng, first):
    for row in range(300):
        yield f"{first + rng.randrange(9)},p{rng.randrange(9)},{row % 7},{int(rng.random() < 0.4)}"


def visits(rng, first):
    for visit in range(60):
        for step in range(rng.randrange(2, 6)):
            at = START + visit % 4 * DAY + visit * 60 + step
            yield f"v{first}{visit},{first + rng.randrange(12)},{at}"


def ratings(rng, first):
    for user in range(20):
        for step in range(8):
            yield f"{user},{first + rng.randrange(30)},{1 + step % 5},{START + step * 1000 + user}"


LOGS = {
    "ranking": ("user,page,price,click", clicks),
    "sessions": ("session_id,item_id,timestamp", visits),
    "interactions": ("user_id,item_id,rating,timestamp", ratings),
}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An odd folder, its neighbour, and temporary files in an odd folder too."""
    odd, neighbour = tmp_path / ODD, tmp_path / NEIGHBOUR
    odd.mkdir(parents=True)
    neighbour.mkdir(parents=True)
    scratch = tmp_path / "t[m]p?"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    return odd, neighbour


def mirrored(odd, neighbour):
    """Puts a file of each name that is in the odd folder into its neighbour; none can be read."""
    for path in odd.rglob("*"):
        twin = neighbour / path.relative_to(odd)
        if path.is_file() and not twin.exists():
            twin.parent.mkdir(parents=True, exist_ok=True)
            twin.write_bytes(b"not to be read")


def write_log(path, recipe, first, seed=0):
    header, lines = LOGS[recipe]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines(random.Random(seed), first)]) + "\n")
    return path


def commands(recipe, at):
    """All commands of a recipe, in an order in which each has its inputs."""
    features, model = f"--features {at}/features", f"--model {at}/model"

    def files(name):
        return f"{at}/{name}.json --plots {at}/{name}"

    yield f"ingest {recipe} --input {at}/log --output {at}/raw"
    yield f"preprocess {recipe} --input {at}/raw --output {at}/features"
    yield f"inspect {recipe} --raw {at}/raw {features} --output {files('inspected')}"
    yield f"train {recipe} --input {at}/features --output {at}/model"
    yield f"evaluate {recipe} {features} {model} --metrics {files('m')}"
    if recipe == "interactions":
        return
    yield f"compare {recipe} {features} --output {at}/compared --metrics {files('c')}"
    if recipe == "sessions":
        yield f"windows {recipe} --input {at}/raw --output {at}/windows --metrics {files('w')}"
    yield f"export {recipe} {features} {model} --output {at}/bundle"
    answer = "score" if recipe == "ranking" else "recommend"
    yield f"{answer} --bundle {at}/bundle --input {at}/log --output {at}/answers.parquet"
    yield f"ingest {recipe} --input {at}/more --output {at}/raw2"
    yield f"preprocess {recipe} --input {at}/raw2 --output {at}/features --grow"


@pytest.mark.parametrize("recipe", LOGS)
def test_no_command_takes_the_name_of_a_folder_for_something_else(folders, recipe):
    odd, neighbour = folders
    write_log(odd / "log" / "a.csv", recipe, 0)
    write_log(odd / "more" / "b.csv", recipe, 0, seed=1)
    settings = [*COMMON["cluster"], *COMMON[recipe]]
    options = [word for setting in settings for word in ("--set", setting)]
    for command in commands(recipe, "@"):
        mirrored(odd, neighbour)
        words = [word.replace("@", str(odd)) for word in command.split(" ")]
        more = [] if words[0] in ("inspect", "score", "recommend") else options
        assert main([*words, *more]) == 0, command
    metrics = json.loads((odd / "m.json").read_text())
    assert metrics["trained_rows"] > 10
    if recipe == "sessions":
        assert {*pl.read_parquet(odd / "answers.parquet", glob=False)["item_id"]} <= {*range(12)}
    if recipe == "ranking":
        assert len(pl.read_parquet(odd / "answers.parquet", glob=False)) == 300


NAMES = ("run[1]", "a*b", "x?y", "{a,b}", "~x", "~", "h#1", "%20", "k=v", "file:", "$HOME", "-o",
         "[!a]", "**", "\\d", "é", "'", '"', ".x")  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES, "sp ace", "line\nend"])
def test_an_existing_folder_is_never_taken_for_a_pattern(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for other in ("run1", "aXb", "xzy", "a", "b", " ", "home", "z"):
        (tmp_path / other).mkdir()
        (tmp_path / other / "x.csv").write_text("other")
    (tmp_path / name).mkdir()
    for file in ("x.csv", "y[0].csv", "*.csv"):
        (tmp_path / name / file).write_text(file)
    for place in (Path(name), tmp_path / name):
        whole = [file.path.read_text() for file in list_inputs(str(place))]
        assert sorted(whole) == ["*.csv", "x.csv", "y[0].csv"]
        for file in ("x.csv", "y[0].csv", "*.csv"):
            [listed] = list_inputs(os.path.join(place, file))
            assert listed.path.read_text() == file
        listed = list_inputs(os.path.join(place, "?.csv"))
        assert sorted(file.path.read_text() for file in listed) == ["*.csv", "x.csv"]
