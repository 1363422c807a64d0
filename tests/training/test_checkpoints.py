import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from core.errors import UserError
from training import checkpoints
from training.checkpoints import Checkpoint, CheckpointFolder

FINGERPRINT = {"settings": {"epochs": 1}}


def example(step=1, best_step=None, fingerprint=FINGERPRINT):
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3).T,
        "b": torch.tensor([True, False]),
        "c": torch.tensor(0.1, dtype=torch.bfloat16),
    }
    return Checkpoint(tensors, {"step": step, "best_step": best_step, "fingerprint": fingerprint})


def test_round_trip(tmp_path):
    checkpoints.save(tmp_path / "x.safetensors", example())
    found = checkpoints.load(tmp_path / "x.safetensors")
    assert found.state == example().state
    for name, tensor in example().tensors.items():
        assert (
            torch.equal(found.tensors[name], tensor) and found.tensors[name].dtype == tensor.dtype
        )


def test_every_altered_or_missing_byte_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoints.save(path, example())
    whole = path.read_bytes()
    rng = random.Random(0)
    for position in [*range(8), len(whole) - 1, *rng.sample(range(8, len(whole)), 60)]:
        changed = bytearray(whole)
        changed[position] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            found = checkpoints.load(path)
        except UserError:
            continue
        # Padding after the header's JSON is the one place where a byte means nothing.
        assert found.state == example().state
        assert all(torch.equal(found.tensors[n], t) for n, t in example().tensors.items())
    for length in rng.sample(range(len(whole)), 30):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=str(path)):
            checkpoints.load(path)


def test_the_last_ones_are_kept_with_the_best_they_refer_to(tmp_path):
    store = CheckpointFolder(tmp_path, keep=2)
    for step, best in [(1, None), (2, 2), (3, 2), (4, 4), (5, 4)]:
        if best == step:
            checkpoints.save(store.best_file(step), example())
        store.save_step(step, example(step, best))
        left = sorted(file.name for file in tmp_path.iterdir())
    assert left == [
        f"{kind}-{n:09d}.safetensors" for kind, n in [("best", 4), ("step", 4), ("step", 5)]
    ]
    assert store.newest(FINGERPRINT).state["step"] == 5
    store.clear()
    assert store.newest(FINGERPRINT) is None


def test_a_broken_one_gives_way_to_the_one_before_it(tmp_path, capsys):
    store = CheckpointFolder(tmp_path, keep=2)
    for step in (1, 2):
        store.save_step(step, example(step))
    file = store.step_file(2)
    file.write_bytes(file.read_bytes()[:-5])
    assert store.newest(FINGERPRINT).state["step"] == 1
    assert "step-000000002.safetensors: not a whole safetensors file" in capsys.readouterr().out


def test_another_run_s_checkpoint_is_not_used(tmp_path, capsys):
    store = CheckpointFolder(tmp_path, keep=2)
    store.save_step(1, example())
    assert store.newest({"settings": {"epochs": 2}}) is None
    assert "settings.epochs: 1, now 2" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adagrad", "SGD", "SparseAdam"])
def test_optimizer_state_round_trip(name, tmp_path):
    def make():
        torch.manual_seed(0)
        table = nn.Embedding(5, 2, sparse=name == "SparseAdam")
        options = {"momentum": 0.9} if name == "SGD" else {}
        return table, getattr(torch.optim, name)(table.parameters(), lr=0.1, **options)

    def step(table, optimizer):
        optimizer.zero_grad()
        table(torch.tensor([1, 3])).square().sum().backward()
        optimizer.step()

    table, optimizer = make()
    step(table, optimizer)
    tensors, rest = checkpoints.optimizer_tensors([optimizer])
    tensors |= {k: v.clone() for k, v in checkpoints.model_tensors(table).items()}
    checkpoints.save(tmp_path / "x.safetensors", Checkpoint(tensors, {"rest": rest}))
    step(table, optimizer)

    found = checkpoints.load(tmp_path / "x.safetensors")
    other, other_optimizer = make()
    checkpoints.restore_model(other, found.tensors)
    checkpoints.restore_optimizers([other_optimizer], found.tensors, found.state["rest"])
    step(other, other_optimizer)
    assert torch.equal(other.weight, table.weight)


def test_random_state_round_trip():
    def draw():
        return [torch.rand(3).tolist(), np.random.normal(size=3).tolist(), random.gauss(0, 1)]

    draw()
    tensors, rest = checkpoints.random_tensors()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    rest = json.loads(json.dumps(rest))
    first = draw()
    draw()
    checkpoints.restore_random(tensors, rest)
    assert draw() == first


def test_weights_of_another_shape_are_refused_by_name(tmp_path):
    checkpoints.save_weights(tmp_path / "model.safetensors", nn.Linear(3, 2))
    checkpoints.load_weights(tmp_path / "model.safetensors", nn.Linear(3, 2))
    with pytest.raises(UserError, match=r"weight: \(2, 3\), now \(2, 4\)"):
        checkpoints.load_weights(tmp_path / "model.safetensors", nn.Linear(4, 2))


class Tied(nn.Module):
    """One table under three names, as session models have it."""

    def __init__(self):
        super().__init__()
        self.item = nn.Embedding(400, 8)
        self.again = self.item
        self.output = nn.Linear(8, 400)
        self.output.weight = self.item.weight


def test_a_tied_table_is_stored_once_and_stays_tied(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    saved = Tied()
    checkpoints.save_weights(path, saved)
    assert path.stat().st_size < 1.3 * saved.item.weight.nbytes
    torch.manual_seed(1)
    loaded = Tied()
    checkpoints.load_weights(path, loaded)
    assert torch.equal(loaded.item.weight, saved.item.weight)
    assert loaded.item.weight is loaded.again.weight is loaded.output.weight


def test_weights_without_a_checksum_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file(dict(nn.Linear(3, 2).state_dict()), path)
    with pytest.raises(UserError, match=r"model\.safetensors: altered .* no checksum"):
        checkpoints.load_weights(path, nn.Linear(3, 2))
    with pytest.raises(UserError, match=r"model\.safetensors: altered .* no checksum"):
        checkpoints.load_weights(path, nn.Linear(3, 2), verified=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers_are_refused(tmp_path, value):
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[1, 2] = value
    checkpoints.save_weights(tmp_path / "model.safetensors", model)
    with pytest.raises(UserError, match="weight holds values that are no finite numbers"):
        checkpoints.load_weights(tmp_path / "model.safetensors", nn.Linear(3, 2))


def test_altered_weights_are_not_loaded(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoints.save_weights(path, nn.Linear(3, 2))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: altered"):
        checkpoints.load_weights(path, nn.Linear(3, 2))


def test_optimizer_state_is_filled_where_it_lies(tmp_path):
    def make():
        weight = nn.Parameter(torch.ones(6, 2))
        return torch.optim.Adagrad([weight], lr=0.1), weight

    optimizer, weight = make()
    weight.sum().backward()
    optimizer.step()
    tensors, rest = checkpoints.optimizer_tensors([optimizer])
    checkpoints.save(tmp_path / "x.safetensors", Checkpoint(tensors, {"rest": rest}))

    other, other_weight = make()
    before = other.state[other_weight]["sum"]
    found = checkpoints.load(tmp_path / "x.safetensors")
    checkpoints.restore_optimizers([other], found.tensors, found.state["rest"])
    after = other.state[other_weight]["sum"]
    assert after.data_ptr() == before.data_ptr()
    assert torch.equal(after, optimizer.state[weight]["sum"]) and after[0, 0] == 1
