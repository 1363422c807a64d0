"""What ``merlin-pipeline settings`` prints, and what is suggested for a wrong name."""

import errno
import random

import pytest

from core import failures
from core.artifacts import read_json, temporary_path
from core.errors import UserError
from pipeline.__main__ import main
from pipeline.params import Params
from pipeline.sections import MODELS, SECTIONS
from pipeline.setting_names import plain, settings_of
from pipeline.stages.settings import show_settings, write_training_settings

MARKUP = ("``", ":class:", ":func:", ":meth:", ":mod:", ":data:")


@pytest.fixture
def printed(capsys, tmp_path, monkeypatch):
    """What the command prints for its arguments, in a folder without params.yaml."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0):
        assert main(["settings", *arguments]) == code
        both = capsys.readouterr()
        return both.out if code == 0 else both.err

    return run


@pytest.mark.parametrize("name", [None, *SECTIONS, *MODELS, "ranking.train.epochs"])
def test_every_block_is_printed_in_short_lines_of_plain_words(printed, name):
    text = printed(*([name] if name else []))
    assert all(len(line) <= 100 for line in text.splitlines())
    assert not any(mark in text for mark in MARKUP)
    for python in (": None", ": True", ": False", "('", "()"):
        assert python not in text


def test_one_block_one_setting_and_a_search(printed):
    block = printed("sessions.train", "--set", "sessions.train.epochs=77")
    assert (
        block.startswith(f"sessions.train, of model {MODELS['sessions'][0]}:\n")
        and "sessions.preprocess" not in block
    )
    assert "  epochs: 77    # default: " in block
    for model in ("fm", "logistic_regression"):
        own = printed("ranking.train", "--set", f"ranking.model={model}")
        assert own.startswith(f"ranking.train, of model {model}:\n")
    one = printed("ranking.train.learning_rate")
    assert one.splitlines()[1].startswith("  learning_rate: ") and len(one.splitlines()) < 5
    assert "split.test_days: 1" in printed("sessions.preprocess.split")
    matches = printed("--search", "learning rate")
    assert "sessions.train.learning_rate" in matches and "ranking.generate.rows" not in matches
    assert "no setting has 'xyzzy'" in printed("--search", "xyzzy", code=1)
    assert "did you mean sessions.train.epochs" in printed("sessions.epoch", code=1)


def test_the_overview_says_what_is_set_otherwise(printed):
    assert "epochs: 77" not in printed()
    assert "epochs: 77" in printed("--set", "sessions.train.epochs=77")


def test_a_setting_without_its_block_is_suggested_with_its_whole_name():
    """40 settings drawn from all, each without its block, and ends of names that several have."""
    rng = random.Random(0)
    every = [(name, setting.name) for name in SECTIONS for setting in settings_of(name)]
    for section, setting in rng.sample(every, 40):
        recipe = section.partition(".")[0]
        last = setting.rpartition(".")[2]
        if f"{recipe}.{last}" in SECTIONS or recipe in ("cluster", "random", "trace"):
            continue
        with pytest.raises(UserError, match=rf"did you mean .*{recipe}\.[\w.]*{last}'"):
            Params.read([], [f"{recipe}.{last}=1"])
    for wrong in ("epochs", "epoch", "train.epochs"):
        with pytest.raises(UserError) as raised:
            Params.read([], [f"{wrong}=3"])
        assert "'ranking.train.epochs' or 'sessions.train.epochs'" in str(raised.value)
    with pytest.raises(UserError, match=r"did you mean 'workflow\.freq_threshold'"):
        Params.read([], ["ranking.preprocess.freq_threshold=3"]).section("ranking.preprocess")


@pytest.mark.parametrize("recipe", MODELS)
def test_an_unknown_model_is_refused_with_the_known_ones(recipe):
    with pytest.raises(UserError, match=rf"{recipe}\.model: unknown model 'popularr'; known: "):
        Params.read([], [f"{recipe}.model=popularr"])


@pytest.mark.parametrize(
    ("recipe", "model"), [(recipe, model) for recipe, models in MODELS.items() for model in models]
)
def test_training_depends_on_its_own_models_settings_alone(recipe, model, tmp_path):
    def written(*overrides):
        params = Params.read([], [f"{recipe}.model={model}", *overrides])
        write_training_settings(recipe, params, tmp_path / "settings.json")
        return read_json(tmp_path / "settings.json")

    first = written()
    assert first["model"] == model and model in first
    other = next(name for name in MODELS[recipe] if name != model)
    assert written(f"{recipe}.{other}.train.epochs=77") == first
    assert written(f"{recipe}.{model}.train.epochs=77")["train"]["epochs"] == 77
    assert written(f"{recipe}.train.seed=77") != first


def test_no_other_file_is_written_over(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("ranking: {train: {epochs: 3}}\n")
    with pytest.raises(UserError, match="holds something else than this command writes"):
        write_training_settings("ranking", Params.read([]), path)
    assert path.read_text() == "ranking: {train: {epochs: 3}}\n"


def test_a_refused_write_names_the_file_as_the_user_did(tmp_path):
    hidden = temporary_path(tmp_path / "params.yaml")
    error = PermissionError(errno.EACCES, "Permission denied", str(hidden))
    assert failures.describe(error) == f"{tmp_path / 'params.yaml'}: Permission denied"


def test_markup_becomes_words():
    assert plain("See :class:`workflows.ops.LogSquared`\n and ``x``.") == "See LogSquared and x."
    assert show_settings.__doc__
