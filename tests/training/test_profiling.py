import json

import pytest

from core.artifacts import read_json
from core.errors import UserError
from pipeline.params import Params
from pipeline.stages.generate import generate
from pipeline.stages.ingest import ingest
from pipeline.stages.preprocess import preprocess
from pipeline.stages.profile import profile

SMALL = """
cluster: {kind: threads, workers: 1}
ranking:
  generate: {rows: 1500, days: 5, seed: 1}
  dlrm: {embedding_dim: 4, bottom_mlp: [8], top_mlp: [8]}
  train: {batch_size: 64, table_weight_decay: 0.001, threads: 1}
sessions:
  generate: {sessions: 250, items: 30, days: 5, seed: 1}
  xlnet: {d_model: 8, layers: 1, heads: 2, max_length: 6}
  train: {batch_size: 32, threads: 1}
"""
BOTH = {
    "reading (waiting for the loader)",
    "copying to the device",
    "embedding",
    "loss and the rest of the model",
    "backward of loss and the rest of the model",
    "backward of embedding",
    "clipping, decay of table rows",
    "optimizer of tables",
    "optimizer of dense layers",
    "rest of the loop",
}
OWN = {
    "ranking": {"bottom MLP", "interaction", "top MLP"},
    "sessions": {"attention", "MLPs", "output layer"},
}


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    file = tmp_path_factory.mktemp("settings") / "small.yaml"
    file.write_text(SMALL)
    return Params.read([file])


@pytest.mark.parametrize("recipe", ["ranking", "sessions"])
def test_a_step_s_time_is_dealt_to_its_parts(recipe, params, tmp_path, capsys):
    generate(recipe, params.section(f"{recipe}.generate"), tmp_path / "generated")
    log = tmp_path / "generated" / "log"
    ingest(recipe, params.section(f"{recipe}.source"), log, tmp_path / "raw")
    preprocess(recipe, tmp_path / "raw", tmp_path / "features", params)
    capsys.readouterr()

    record = profile(recipe, tmp_path / "features", tmp_path / "profile", params, steps=4)
    backward = {f"backward of {name}" for name in OWN[recipe]}
    assert set(record["parts"]) == BOTH | OWN[recipe] | backward
    assert all(seconds > 0 for seconds in record["parts"].values())
    # The clocks miss nothing but themselves.
    assert 0.5 < sum(record["parts"].values()) / record["measured_step"] <= 1
    assert record["step"] > 0 and record["steps"] == 4
    names = [row["name"] for row in record["operators"]]
    assert "aten::mm" in names and not set(names) & set(record["parts"])
    own = [row["seconds"] for row in record["operators"]]
    assert own == sorted(own, reverse=True)
    assert read_json(tmp_path / "profile" / "profile.json") == record
    events = json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]
    assert {"interaction", "attention"} & {event.get("name") for event in events}
    shown = capsys.readouterr().out
    assert "backward of embedding" in shown and "aten::" in shown and "undisturbed" in shown


def test_what_cannot_be_profiled(tmp_path, params):
    with pytest.raises(UserError, match="--steps 0"):
        profile("ranking", tmp_path, tmp_path, params, steps=0)
    with pytest.raises(UserError, match=r"no manifest\.json"):
        profile("ranking", tmp_path / "in", tmp_path / "out", params)
