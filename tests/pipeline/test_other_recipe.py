"""Raw logs of one recipe are refused by the others, which would read other things from them."""

import pytest

from core.errors import UserError
from pipeline.params import Params
from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import preprocess

START = 1_600_000_000
ROWS = [(f"u{row % 20}", f"i{row % 7}", row % 2, START + 9 * row) for row in range(400)]
COLUMNS = {
    "ranking": {"labels": ["liked"], "categorical": ["user", "item"], "timestamp": "time"},
    "sessions": {"session_id": "user", "item_id": "item", "user_id": "user", "timestamp": "time"},
    "interactions": {"user_id": "user", "item_id": "item", "rating": "liked", "timestamp": "time"},
}


@pytest.fixture(scope="module")
def raws(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raws")
    lines = [",".join(map(str, row)) for row in ROWS]
    (folder / "log.csv").write_text("\n".join(["user,item,liked,time", *lines]) + "\n")
    for recipe in COLUMNS:
        settings = params(recipe).section(f"{recipe}.source")
        ingest(recipe, settings, folder / "log.csv", folder / recipe, quiet=True)
    return folder


def params(recipe):
    return Params({recipe: {"source": {"columns": COLUMNS[recipe]}}, "cluster": {"workers": 1}})


@pytest.mark.parametrize("recipe", COLUMNS)
def test_only_the_recipe_that_a_log_was_ingested_for_reads_it(raws, recipe, tmp_path):
    others = [name for name in COLUMNS if name != recipe]
    for other in others:
        with pytest.raises(UserError, match=f"{other}: was written by 'ingest {other}', and "):
            preprocess(recipe, raws / other, tmp_path / "features", params(recipe))
    assert not (tmp_path / "features").exists()
    manifest = preprocess(recipe, raws / recipe, tmp_path / "features", params(recipe))
    for other in others:
        with pytest.raises(UserError, match=f"ingest the log again for {recipe}"):
            preprocess(recipe, raws / other, tmp_path / "features", params(recipe), grow=True)
    again = preprocess(recipe, raws / recipe, tmp_path / "features", params(recipe), grow=True)
    assert again == manifest
