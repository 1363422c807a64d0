"""A bundle is read whole, from one and the same export, or refused."""

import json
import os
import shutil

import numpy as np
import pytest

from core.errors import UserError
from core.sums import Replaced, reading, sums_of, write_manifest
from pipeline import model_folder
from pipeline.feature_folder import read_schema
from pipeline.model_folder import load_model
from pipeline.scoring import Bundle
from pipeline.scoring import bundle as bundle_module
from pipeline.scoring.tables import check_finite
from tests.harness import targets


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")
    targets.make_all(folder)
    return {target.name: target for target in targets.open_all(folder)}


@pytest.fixture
def ranking(made, tmp_path):
    """A copy of the bundle, and how it is read."""
    target = made["ranking bundle"]
    return shutil.copytree(target.folder, tmp_path / "bundle"), target.read


def seal(folder):
    path = folder / "bundle.json"
    record = json.loads(path.read_text())
    write_manifest(path, record, sums_of(folder, record["checksums"]))


def edited(folder, name, **given):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **given}))
    seal(folder)


@pytest.mark.parametrize("name", ["ranking bundle", "sessions bundle"])
def test_once_loaded_nothing_is_read_from_the_folder(made, tmp_path, name):
    target = made[name]
    folder = shutil.copytree(target.folder, tmp_path / "bundle")
    loaded = Bundle(folder)
    shutil.rmtree(folder)
    raw = target.folder.parent / "asked"
    assert targets.answers(loaded, raw) == target.read(target.folder)


def test_a_bundle_with_tables_out_of_core_is_not_written_to(ranking):
    folder, read = ranking
    before = read(folder)
    record = json.loads((folder / "model.json").read_text())
    edited(folder, "model.json", train={**record["train"], "tables_out_of_core": True})
    names = sorted(folder.rglob("*"))
    times = [path.stat().st_mtime_ns for path in names if path.is_dir()]
    assert read(folder) == before
    assert sorted(folder.rglob("*")) == names
    assert [path.stat().st_mtime_ns for path in names if path.is_dir()] == times


def test_a_bundle_that_is_replaced_meanwhile_is_read_anew(ranking, tmp_path, monkeypatch):
    folder, _ = ranking
    other = shutil.copytree(folder, tmp_path / "other")
    record = json.loads((other / "bundle.json").read_text())
    source = {**record["source"], "max_bad_fraction": 0.5}
    edited(other, "bundle.json", source=source)
    calls = []

    def load(*given, **more):
        found = load_model(*given, **more)
        calls.append(1)
        if len(calls) == 1:
            folder.rename(tmp_path / "old")
            other.rename(folder)
            shutil.rmtree(tmp_path / "old")
        return found

    monkeypatch.setattr(bundle_module, "load_model", load)
    assert Bundle(folder).source.max_bad_fraction == 0.5
    assert len(calls) == 2


def test_a_model_that_is_replaced_meanwhile_says_so(made, tmp_path, monkeypatch):
    features = made["features' state"].folder
    folder = shutil.copytree(made["model folder"].folder, tmp_path / "model")
    build = model_folder.build
    calls = []

    def replacing(*given):
        calls.append(1)
        if len(calls) == 1:
            record = json.loads((folder / "model.json").read_text())
            (folder / "model.safetensors").write_bytes(b"")
            write_manifest(folder / "model.json", {**record, "rows": 1}, record["checksums"])
        else:
            shutil.copytree(made["model folder"].folder, folder, dirs_exist_ok=True)
        return build(*given)

    monkeypatch.setattr(model_folder, "build", replacing)
    with pytest.raises(Replaced, match="was replaced by another run"):
        load_model(folder, read_schema(features), features)
    shutil.copytree(made["model folder"].folder, folder, dirs_exist_ok=True)
    calls.clear()
    calls.append(1)
    _, record = reading(lambda: load_model(folder, read_schema(features), features))
    assert record["rows"] > 1


def test_what_is_outside_is_never_read(ranking, tmp_path):
    folder, _ = ranking
    record = json.loads((folder / "state/state.json").read_text())
    for name in ("../../../outside", "/etc", "01-fillmedian"):
        operators = [{**one, "folder": name} for one in record["operators"]]
        edited(folder, "state/state.json", operators=operators)
        with pytest.raises(UserError, match=r"state\.json: operators\.0\.folder: expected '00-"):
            Bundle(folder)
    edited(folder, "state/state.json", **record)
    Bundle(folder)
    inside = next(folder.glob("state/*/unique.*.parquet"))
    shutil.move(inside, tmp_path / "outside.parquet")
    os.symlink(tmp_path / "outside.parquet", inside)
    seal(folder)
    with pytest.raises(UserError, match=r"unique.*is a link"):
        Bundle(folder)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"model": "../../x"}, r"model\.json: model: unknown model '../../x'"),
        ({"recipe": "../../x"}, r"model\.json: recipe: .*'ranking'"),
        ({"recipe": "sessions", "model": "popular", "settings": {}}, r"model\.json"),
        (
            {"settings": {"members": [{"model": "ensemble"}] * 2}},
            r"model\.json: settings: .*'ensemble' is no click model",
        ),
        (
            {"settings": {"members": [{"model": "dlrm"}] * 10_000}},
            r"model\.json: settings: members: .*at most 64",
        ),
        (
            {"model": "deepfm", "settings": {"embedding_dim": 10**9}},
            r"model\.json: settings: they ask for a larger model than model\.safetensors",
        ),
        (
            {"model": "deepfm", "settings": {"embedding_dim": 4}},
            r"model\.safetensors: not the weights of this model",
        ),
        ({"settings": []}, r"model\.json: settings: .*got an array"),
        ({"train": {"seed": "x"}}, r"model\.json: train\.seed: .*got 'x'"),
    ],
)
def test_settings_of_a_stranger_are_checked(ranking, given, message):
    folder, _ = ranking
    edited(folder, "model.json", **given)
    with pytest.raises(UserError, match=message):
        Bundle(folder)


def test_scores_that_are_no_numbers_are_told_by_their_row():
    check_finite(np.zeros(3), str, "b")
    with pytest.raises(UserError, match=r"b: 2 of 4 scores .* row 1; nothing was written"):
        check_finite(np.array([0, np.nan, 1, np.inf]), lambda row: f"row {row}", "b")
