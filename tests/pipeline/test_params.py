"""Settings: what is wrong is named, and the shipped files are right."""

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from core.errors import UserError
from pipeline.compare.plan import entries as plan_entries
from pipeline.params import Params
from pipeline.sections import MODELS, SECTIONS
from pipeline.stages.use import use
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rankng.train.epochs=2", "unknown setting 'rankng'; did you mean 'ranking'"),
        ("ranking.trian.epochs=2", "unknown setting 'ranking.trian'; did you mean 'ranking.train'"),
        ("ranking.train.epoch=2", "ranking.train: unknown setting 'epoch'; did you mean 'epochs'"),
        ("ranking.train.epochs=none", "ranking.train: epochs: .*integer.*'none'"),
        ("ranking.train.epochs=0", "epochs: .*greater than or equal to 1, got 0"),
        ("ranking.train=3", "ranking.train: expected a block of settings, got 3"),
        ("ranking.train.epochs", "expected key=value"),
        ("sessions.model=xlnett", "sessions.model: unknown model 'xlnett'; known: xlnet"),
        ("sessions.xlnet.masking=clm", "masking: .*sees the answer"),
        ("cluster.kind=scheduler", "needs cluster.address"),
    ],
)
def test_a_wrong_setting_is_named(override, message):
    with pytest.raises(UserError, match=message):
        Params.read([], [override]).check()


def test_command_line_over_later_file_over_earlier_file(tmp_path):
    (tmp_path / "a.yaml").write_text("ranking: {train: {epochs: 7, batch_size: 33}}")
    (tmp_path / "b.yaml").write_text("ranking: {train: {epochs: 8, patience: 9}}")
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    train = Params.read(files, ["ranking.train.patience=1"]).section("ranking.train")
    assert (train.epochs, train.batch_size, train.patience) == (8, 33, 1)


def test_a_models_own_training_goes_over_the_recipes():
    given = ["ranking.train.epochs=2", "ranking.train.batch_size=64", "ranking.afm.train.epochs=5"]
    params = Params.read([], given)
    assert (params.engine("ranking").epochs, params.engine("ranking").batch_size) == (2, 64)
    params = Params.read([], [*given, "ranking.model=afm"])
    assert (params.engine("ranking").epochs, params.engine("ranking").batch_size) == (5, 64)
    assert params.section("ranking.train").epochs == 2


def test_each_click_model_starts_from_its_own_training_and_null_leaves_it():
    def engines(*overrides):
        names = MODELS["ranking"]
        given = [[*overrides, f"ranking.model={name}"] for name in names]
        return {
            name: Params.read([], g).engine("ranking") for name, g in zip(names, given, strict=True)
        }

    own = engines()
    assert (own["dlrm"].optimizer, own["dlrm"].learning_rate) == ("adagrad", 0.01)
    linear = own["logistic_regression"]
    assert (linear.optimizer, linear.learning_rate, linear.epochs) == ("adam", 0.005, 100)
    assert own["fm"].table_learning_rate < own["fm"].linear_learning_rate
    assert (
        engines(*(f"ranking.train.{n}=null" for n in ("optimizer", "learning_rate", "epochs")))
        == own
    )
    assert engines("ranking.fm.train.optimizer=null")["fm"] == own["fm"]
    said = engines("ranking.train.learning_rate=0.5", "ranking.train.patience=null")
    assert {(e.learning_rate, e.patience) for e in said.values()} == {(0.5, None)}


@pytest.mark.parametrize("recipe", ["ranking", "sessions"])
def test_params_yaml_trains_as_the_code_does(recipe):
    for name in MODELS[recipe]:
        chosen = [f"{recipe}.model={name}"]
        shipped = Params.read([ROOT / "params.yaml"], chosen)
        assert shipped.engine(recipe) == Params.read([], chosen).engine(recipe)


def test_entries_of_a_comparison_train_as_each_model_does():
    entries = {"one": {"model": "logistic_regression"}, "other": {"model": "deepfm"}}
    params = Params.read([ROOT / "params.yaml"], [f"ranking.compare.entries={json.dumps(entries)}"])
    engines = {e.name: e.of_seed(3).engine("ranking") for e in plan_entries("ranking", params)}
    for name, model in (("one", "logistic_regression"), ("other", "deepfm")):
        alone = Params.read([], [f"ranking.model={model}", "ranking.train.seed=3"])
        assert engines[name] == alone.engine("ranking")


def test_a_fault_in_a_models_own_training_is_named():
    params = Params.read([], ["ranking.afm.train.epoch=5"])
    with pytest.raises(UserError, match=r"ranking\.afm\.train: unknown setting 'epoch'"):
        params.check()


def test_a_broken_or_absent_file_is_named(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("ranking: [unclosed")
    for path in (broken, tmp_path / "absent.yaml"):
        with pytest.raises(UserError, match=path.name):
            Params.read([path])


@pytest.mark.parametrize(
    "path", [ROOT / "params.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))], ids=lambda p: p.name
)
def test_shipped_settings_are_valid(path):
    Params.read([path]).check()
    if path.name != "params.yaml":
        Params.read([ROOT / "params.yaml", path]).check()


def test_every_setting_has_a_meaning():
    from pipeline.sections import settings_class

    for name in SECTIONS:
        for field, about in settings_class(name).model_fields.items():
            nested = hasattr(about.annotation, "model_fields")
            assert about.description or nested, f"{name}.{field} has no docstring"


def test_use_keeps_comments_and_other_settings(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text("# top\nranking:\n  train:\n    epochs: 3  # at most\n    batch_size: 64\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("ranking: {train: {epochs: 5}, model: dlrm}")
    use(recipe, params)
    text = params.read_text()
    assert "# top" in text and "# at most" in text
    tree = YAML(typ="safe").load(text)
    assert tree == {"ranking": {"train": {"epochs": 5, "batch_size": 64}, "model": "dlrm"}}


def test_use_writes_nothing_where_the_recipe_is_wrong(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text("ranking: {model: dlrm}\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("ranking: {train: {epochs: -1}}")
    with pytest.raises(UserError, match="epochs"):
        use(recipe, params)
    assert params.read_text() == "ranking: {model: dlrm}\n"


def test_dvc_stages_name_settings_and_code_that_exist():
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    given = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    known = {*SECTIONS, "ranking", "sessions"}
    for name, stage in stages.items():
        for param in stage.get("params", []):
            section, _, key = param.rpartition(".")
            one_key = section in SECTIONS and key in given[section.split(".")[0]].get(
                section.split(".")[-1], {}
            )
            assert "${" in param or param in known or one_key, f"{name}: {param}"
        for dep in stage["deps"]:
            made = dep.startswith(("data/", "${"))
            assert made or Path(ROOT / dep).exists(), f"{name}: {dep}"


def test_one_setting_says_where_everything_runs():
    params = Params.read([], ["device=cpu", "sessions.train.device=cuda"])
    assert params.section("cluster").device == params.engine("ranking").device == "cpu"
    assert params.engine("sessions").device == "cuda"
    assert Params.read([]).section("cluster").device == "auto"
    with pytest.raises(UserError, match="device: expected auto, cpu or cuda, got 'gpu'"):
        Params.read([], ["device=gpu"])


def test_what_is_wrong_in_a_block_is_told_without_the_whole_block():
    crosses = {"preprocess": {"workflow": {"target_crosses": [["C1", "I99"]]}}}
    with pytest.raises(UserError) as told:
        Params({"ranking": crosses}, "p.yaml").section("ranking.preprocess")
    expected = "workflow: target_crosses: no column 'I99'; there are "
    assert str(told.value).startswith(f"p.yaml: ranking.preprocess: {expected}I1, I2")


def test_a_block_in_the_place_of_a_value_is_shown():
    with pytest.raises(UserError, match=r"separator: input should be a valid string, got \{'x': 1"):
        Params({"sessions": {"source": {"separator": {"x": 1}}}}, "p").section("sessions.source")


@pytest.mark.parametrize(
    ("crosses", "message"),
    [
        ([["C1"]], "needs two columns or more, each once"),
        ([["C1", "C1"]], "needs two columns or more, each once"),
        ([["C1", "I2"], ["I2", "C1"]], r"\['I2', 'C1'\] is there twice"),
    ],
)
def test_crosses_that_cannot_be(crosses, message):
    tree = {"ranking": {"preprocess": {"workflow": {"target_crosses": crosses}}}}
    with pytest.raises(UserError, match=message):
        Params(tree, "p.yaml").section("ranking.preprocess")


NEEDED_BY_DVC = ("source.path", "compare.entries", "compare.seeds")
"""DVC itself reads them; left out, they are the generated log and all models."""


OF_DATA = [
    name for name in SECTIONS if name.endswith(("generate", "source", "preprocess", "evaluate"))
]


@pytest.mark.parametrize("section", ["cluster", *OF_DATA])
def test_params_yaml_shows_the_defaults_of_the_code(section):
    from pipeline.setting_names import settings_of, value_of

    shown, default = (of.section(section) for of in (Params.read([ROOT / "params.yaml"]), Params()))
    for setting in settings_of(section):
        if f"{section}.{setting.name}".partition(".")[2] not in NEEDED_BY_DVC:
            of = value_of(shown, setting.name), value_of(default, setting.name)
            assert of[0] == of[1], f"{section}.{setting.name}"


def test_columns_of_the_generated_log_need_not_be_named(tmp_path, monkeypatch):
    from core.artifacts import read_json
    from pipeline.__main__ import main

    monkeypatch.chdir(tmp_path)
    few = ["--set", "sessions.generate.sessions=60", "--set", "sessions.generate.users=30"]
    assert main(["generate", "sessions", *few]) == 0
    assert main(["ingest", "sessions"]) == 0
    columns = read_json("data/sessions/raw/manifest.json")["columns"]
    assert {"user_id", "category", "brand", "price"} <= set(columns)
    own = ["--set", "sessions.source.columns={item_id: item_id}"]
    assert main(["ingest", "sessions", "--output", "own", *own]) == 0
    assert set(read_json("own/manifest.json")["columns"]) == {"session_id", "item_id", "timestamp"}
