"""The comparison of session models, and the DVC stages of both recipes."""

import json

import pytest
from ruamel.yaml import YAML

from core.errors import UserError
from pipeline.params import Params
from pipeline.stages import compare as stage
from pipeline.stages.evaluate import evaluate
from tests.conftest import ROOT
from tests.pipeline.comparison import session_features

SETTINGS = {
    "xlnet": {"d_model": 8, "layers": 1, "heads": 2, "side_features": []},
    "train": {"epochs": 1, "batch_size": 20},
    "evaluate": {"ks": [3, 5, 20]},
}


def params(entries, **compare):
    chosen = {"entries": entries, "seeds": [1], **compare}
    return Params({"sessions": {**SETTINGS, "compare": chosen}})


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return session_features(tmp_path_factory.mktemp("features"))


def test_every_metric_at_k_that_evaluate_gives_is_in_the_table(features, tmp_path):
    given = params(["popular", "xlnet"])
    stage.compare("sessions", features, tmp_path / "out", given)
    found = stage.summary(
        "sessions", features, tmp_path / "out", tmp_path / "m.json", tmp_path / "p", given
    )
    for entry in ("popular", "xlnet"):
        run = tmp_path / "out" / "runs" / entry / "seed-1"
        own = evaluate("sessions", features, run, tmp_path / "e.json", tmp_path / "e", given)
        at_k = {name: value for name, value in own.items() if "@" in name}
        assert {"recall@3", "recall@20", "mrr@5", "ndcg@20"} <= set(at_k)
        assert found["metrics"] == list(at_k)
        test = found["entries"][entry]["metrics"]["test"]
        assert {name: test[name]["mean"] for name in at_k} == at_k
        assert "train" not in found["entries"][entry]["metrics"]
        assert found["entries"][entry]["cost"]["inference_microseconds"]["mean"] > 0
        header = (tmp_path / "p" / "tables.md").read_text()
        assert all(f"| {name} " in header for name in at_k)
    # A pass of counting has no loss; its one point is the validation after it.
    curve = json.loads((tmp_path / "p" / "curves.json").read_text())
    counted = [row for row in curve if row["entry"] == "popular"]
    assert [row["train_loss"] for row in counted] == [None]


def test_metrics_are_known_before_anything_is_trained(features, tmp_path):
    with pytest.raises(UserError, match="recall@7 is none of the metrics of popular: recall@3"):
        stage.compare("sessions", features, tmp_path, params(["popular"], metrics=["recall@7"]))
    thin = {"xlnet": {"after": {"low_rank": {"fraction": 0.5}}}}
    with pytest.raises(UserError, match=r"compare\.entries\.xlnet: low rank: XLNet.* no MLP"):
        stage.compare("sessions", features, tmp_path, params(thin))
    assert not any(tmp_path.iterdir())


def test_every_metric_that_evaluate_gives_can_be_chosen(features, tmp_path):
    chosen = ["coverage@20", "hit@20", "novelty@3"]
    given = params(["popular"], metrics=chosen)
    stage.compare("sessions", features, tmp_path / "out", given)
    files = tmp_path / "m.json", tmp_path / "p"
    found = stage.summary("sessions", features, tmp_path / "out", *files, given)
    assert found["metrics"] == chosen


@pytest.mark.parametrize("form", ["list", "mapping"])
def test_dvc_has_a_stage_for_each_entry_and_seed(tmp_path, form):
    from dvc.repo import Repo

    entries = ["fm", "dlrm"] if form == "list" else {"fm": None, "b": {"model": "dlrm"}}
    tree = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    tree["ranking"]["compare"] = {"entries": entries, "seeds": [4, 5]}
    (tmp_path / "compare").mkdir()
    for name, source in (("dvc.yaml", "dvc.yaml"), ("compare/dvc.yaml", "compare/stages.yaml")):
        (tmp_path / name).write_text((ROOT / source).read_text())
    (tmp_path / "params.yaml").write_text(json.dumps(tree))
    Repo.init(str(tmp_path), no_scm=True).close()
    with Repo(str(tmp_path)) as repo:
        stages = {stage.addressing: stage for stage in repo.index.stages}
        upstream = {
            info.stage.name for info in repo.stage.collect_granular(str(tmp_path / "dvc.yaml"))
        }
    names = [f"ranking@{entry}-{seed}" for entry in entries for seed in (4, 5)]
    found = [name.partition(":")[2] for name in stages if "ranking@" in name]
    assert sorted(found) == sorted(names)
    assert not any("compare" in name or "@" in name for name in upstream)


def test_dvc_stages_name_code_that_exists_and_all_that_a_run_depends_on():
    from pipeline.compare.run import CODE

    stages = YAML(typ="safe").load((ROOT / "compare" / "stages.yaml").read_text())["stages"]
    for name, about in stages.items():
        for dep in about["deps"]:
            assert dep.startswith("data/") or (ROOT / dep).exists(), f"{name}: {dep}"
    for recipe in ("ranking", "sessions"):
        assert set(CODE) <= set(stages[recipe]["deps"])
