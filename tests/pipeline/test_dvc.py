"""DVC as people use it, before anything has run: few lines, charts of plots only, no comparison."""

import json
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from pipeline.sections import MODELS
from pipeline.stages.evaluate import summary
from pipeline.stages.settings import TRAINED_BY
from tests.conftest import ROOT
from training.sessions.settings import SessionEvaluationSettings


def dvc_yaml(name="dvc.yaml"):
    return YAML(typ="safe").load((ROOT / name).read_text())


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project that DVC knows, in which nothing has run."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("dvc.yaml", "params.yaml", ".dvcignore", "compare/stages.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text((ROOT / name).read_text())
    run(folder, "init", "--no-scm", "--quiet")
    return folder


def run(folder, *arguments):
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_commands_before_the_first_run_say_little_and_nothing_of_comparisons(project):
    stages = dvc_yaml()["stages"]
    for command in ("status", "checkout", "dag"):
        _, lines = run(project, command)
        assert "compare" not in "\n".join(lines)
        if command == "dag":
            assert max(map(len, lines)) < 200
        else:
            assert len(lines) < 12 * len(stages)
    _, lines = run(project, "params", "diff")
    assert not any("compare/" in line for line in lines)


def test_a_model_without_a_block_of_settings_is_no_error(project):
    text = (project / "params.yaml").read_text()
    for recipe, models in MODELS.items():
        if recipe == "interactions":
            continue
        for model in {models[-1], "popular"} & set(models):
            tree = YAML(typ="safe").load(text)
            tree[recipe] = {**tree[recipe], "model": model}
            tree[recipe].pop(model, None)
            (project / "params.yaml").write_text(json.dumps(tree))
            code, lines = run(project, "stage", "list", "--name-only")
            assert code == 0 and f"train-{recipe}" in lines
    (project / "params.yaml").write_text(text)
    train = dvc_yaml()["stages"]["train-sessions"]
    assert "data/sessions/settings.json" in train["deps"] and "params" not in train


def test_charts_are_those_of_dvc_yaml_and_their_templates_are_there():
    from dvc_render.vega_templates import TEMPLATES

    whole = dvc_yaml()
    made = set()
    for name, stage in whole["stages"].items():
        assert "plots" not in stage, f"{name}: DVC draws every file of it"
        made |= {next(iter(out)) if isinstance(out, dict) else out for out in stage.get("outs", ())}
    known = {template.DEFAULT_NAME for template in TEMPLATES}
    known |= {path.stem for path in (ROOT / ".dvc" / "plots").glob("*.json")}
    for chart in whole["plots"]:
        [(name, about)] = chart.items()
        assert about.get("template", "linear") in known, name
        for file in about["y"]:
            assert any(file == out or file.startswith(f"{out}/") for out in made), file


def test_tables_of_metrics_are_of_the_main_ones_and_fit_a_screen(project):
    whole = dvc_yaml()
    outs = [out for stage in whole["stages"].values() for out in stage["outs"]]
    numbers = {"auc": 0.7, "logloss": 0.4, "normalized_entropy": 0.9, "calibration": 1.1}
    ranks = {"recall@20": 0.3, "ndcg@20": 0.2, "mrr@20": 0.1}
    for file, metrics in zip(whole["metrics"], (numbers, ranks), strict=True):
        assert any(isinstance(out, str) and file.startswith(f"{out}/") for out in outs), file
        rest = {"baselines": {"popular": metrics}, "rows": 7, "accuracy": 0.5}
        assert summary({**metrics, **rest}) == metrics
        (project / file).parent.mkdir(parents=True)
        (project / file).write_text(json.dumps(metrics))
    code, lines = run(project, "metrics", "show")
    assert code == 0 and "recall@20" in lines[0] and "auc" in lines[0]
    assert max(map(len, lines)) <= 120


def test_bars_are_in_the_order_of_their_file():
    for name, axis in (("bars_in_order", "y"), ("drift", "x")):
        template = json.loads((ROOT / ".dvc" / "plots" / f"{name}.json").read_text())
        assert template["encoding"][axis] == {
            **template["encoding"][axis],
            "type": "ordinal",
            "sort": None,
        }


def test_what_training_depends_on_is_in_the_evaluation_settings():
    assert set(TRAINED_BY) <= set(SessionEvaluationSettings.model_fields)
