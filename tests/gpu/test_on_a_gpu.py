"""The same raw logs, features and models on the CPU and on a GPU."""

import numpy as np
import pytest

from core.cluster import ClusterSettings
from pipeline.params import Params
from pipeline.stages.evaluate import evaluate
from pipeline.stages.train import train
from tests.gpu.logs import ROADS, clicks, events
from tests.gpu.sides import assert_same_features, assert_same_state

pytestmark = pytest.mark.gpu
ON_CPU = ClusterSettings(device="cpu", workers=2)

MODELS = {
    "ranking": {
        "model": "dlrm",
        "dlrm": {"embedding_dim": 8, "bottom_mlp": [16, 8], "top_mlp": [16], "dropout": 0.0},
        "train": {"epochs": 1, "batch_size": 64, "learning_rate": 0.01, "optimizer": "adagrad"},
    },
    "sessions": {
        "model": "sasrec",
        "sasrec": {
            "d_model": 16,
            "layers": 1,
            "heads": 2,
            "dropout": 0.0,
            "loss": "cross_entropy",
            "max_length": 6,
        },
        "train": {"epochs": 1, "batch_size": 16, "learning_rate": 0.003, "optimizer": "adamw"},
    },
}
SCORES = {"ranking": ("auc", "logloss"), "sessions": ("recall@20", "mrr@20")}


@pytest.mark.parametrize(("road", "how"), ROADS)
def test_a_gpu_makes_the_same_features_and_state(road, how, tmp_path, cudf_on_a_gpu):
    raw = tmp_path / "raw"
    host = road(raw, tmp_path / "host", how, ON_CPU)
    device = road(raw, tmp_path / "device", how, ClusterSettings(device="cuda", workers=1))
    assert_same_state(host, device)
    assert_same_features(host, device)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Features made on the CPU, as a machine without cuDF has them."""
    folder = tmp_path_factory.mktemp("features")
    return {
        "ranking": clicks(folder / "clicks", folder / "ranking", "plain", ON_CPU),
        "sessions": events(folder / "events", folder / "sessions", "numbers", ON_CPU),
    }


def trained(recipe, features, folder, device):
    """One epoch from the same weights on the same batches, in fp32."""
    settings = {**MODELS[recipe], "train": {**MODELS[recipe]["train"], "precision": "fp32"}}
    params = Params({recipe: settings, "device": device})
    record = train(recipe, features, folder / "model", params)
    found = evaluate(
        recipe, features, folder / "model", folder / "m.json", folder / "plots", params
    )
    return record, found


@pytest.mark.parametrize("recipe", MODELS)
def test_an_epoch_on_a_gpu_learns_the_same(recipe, features, tmp_path, torch_on_a_gpu):
    sides = [
        trained(recipe, features[recipe], tmp_path / device, device) for device in ("cpu", "cuda")
    ]
    (record, expected), (other, found) = sides
    assert record["learned"]["steps"] == other["learned"]["steps"] > 3
    for name in SCORES[recipe]:
        assert found[name] == pytest.approx(expected[name], abs=2e-3), name
    weights = [_weights(tmp_path / device / "model") for device in ("cpu", "cuda")]
    for name, expected_weight in weights[0].items():
        # Sums in another order, over an epoch of steps.
        np.testing.assert_allclose(weights[1][name], expected_weight, atol=5e-3, err_msg=name)


@pytest.mark.parametrize("recipe", MODELS)
def test_a_gpu_judges_as_the_cpu_does(recipe, features, tmp_path, torch_on_a_gpu):
    """A model that was trained on the CPU, on features that were made there."""
    _, expected = trained(recipe, features[recipe], tmp_path, "cpu")
    params = Params({recipe: MODELS[recipe], "device": "cuda"})
    place = tmp_path / "m.json", tmp_path / "plots"
    found = evaluate(recipe, features[recipe], tmp_path / "model", *place, params)
    for name in SCORES[recipe]:
        assert found[name] == pytest.approx(expected[name], abs=1e-4), name


def _weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")
