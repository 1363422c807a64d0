"""The stores of embedding tables against each other, and against dense arithmetic."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from core.errors import UserError
from core.merlin import ColumnSchema, Schema, Tags
from training import checkpoints, ranking
from training.embeddings import TableGroup
from training.engine import EngineSettings
from training.ranking.dlrm import DLRMSettings
from training.tables.kernels import sum_gradients
from training.tables.place import choose_store, place_tables
from training.tables.storage import MappedFiles, tables_in
from training.threads import ROWS_WORTH_A_THREAD

CPU = torch.device("cpu")
OPTIMIZERS = ["sgd", "adagrad", "rowwise_adagrad", "adam"]
STORES = ["plain", "compiled", "fused"]
# FBGEMM has no Adam on CPU.
BOTH = [(s, o) for s in STORES for o in OPTIMIZERS if (s, o) != ("fused", "adam")]
ROWS = 30


def column(name: str, rows: int = ROWS, is_list: bool = False) -> ColumnSchema:
    return ColumnSchema(
        name,
        dtype="int32",
        tags=[Tags.CATEGORICAL],
        is_list=is_list,
        is_ragged=is_list,
        properties={"domain": {"min": 0, "max": rows - 1, "name": name}},
    )


def model(lists: bool = False) -> TableGroup:
    torch.manual_seed(3)
    return TableGroup(Schema([column("a"), column("b", is_list=lists)]), 4, "normal")


def engine(store: str, optimizer: str, **more) -> EngineSettings:
    return EngineSettings(tables=store, table_optimizer=optimizer, learning_rate=0.1, **more)


def batch(step: int, rows: int = 16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    # A few rows stand many times in a batch, others never.
    ids = (torch.rand(2, rows, generator=generator) ** 3 * ROWS).int()
    return {"a": ids[0], "b": ids[1]}


def loss(group: TableGroup, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    vectors = group(inputs)
    return (vectors["a"] * vectors["b"] + vectors["a"]).tanh().square().sum()


def train(group: TableGroup, optimizers: list, steps: range) -> None:
    for step in steps:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss(group, batch(step)).backward()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("store, optimizer", BOTH)
def test_every_store_trains_as_the_dense_formulas(store, optimizer):
    group = model()
    weight = group.table.weight.detach().double().numpy().copy()
    optimizers = place_tables(group, engine(store, optimizer), CPU)
    state = {"sum": np.zeros_like(weight), "row": np.zeros(len(weight))}
    moments = {"m": np.zeros_like(weight), "v": np.zeros_like(weight)}
    for step in range(12):
        reference = torch.from_numpy(weight.copy()).requires_grad_()
        inputs = batch(step)
        a, b = (reference[inputs[name].long() + group.rows(name).start] for name in "ab")
        (a * b + a).tanh().square().sum().backward()
        g = reference.grad.numpy()
        used = np.unique(np.concatenate([inputs["a"], inputs["b"].numpy() + ROWS]))
        if optimizer == "sgd":
            weight -= 0.1 * g
        elif optimizer == "adagrad":
            state["sum"] += g**2
            weight -= 0.1 * g / (np.sqrt(state["sum"]) + 1e-10)
        elif optimizer == "rowwise_adagrad":
            state["row"] += (g**2).mean(1)
            weight -= 0.1 * g / (np.sqrt(state["row"]) + 1e-10)[:, None]
        else:
            m, v = moments["m"], moments["v"]
            m[used] = 0.9 * m[used] + 0.1 * g[used]
            v[used] = 0.999 * v[used] + 0.001 * g[used] ** 2
            rate = 0.1 * np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
            weight[used] -= rate * m[used] / (np.sqrt(v[used]) + 1e-8)
        train(group, optimizers, range(step, step + 1))
    np.testing.assert_allclose(group.table.weight.detach().numpy(), weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("then, optimizer", BOTH)
def test_a_run_goes_on_in_another_store(then, optimizer):
    first = "plain" if then == "compiled" else "compiled"
    whole = model()
    train(whole, place_tables(whole, engine(first, optimizer), CPU), range(10))

    part = model()
    optimizers = place_tables(part, engine(first, optimizer), CPU)
    train(part, optimizers, range(5))
    weights = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    tensors, rest = checkpoints.optimizer_tensors(optimizers)

    resumed = model()
    resumed.load_state_dict(weights)
    optimizers = place_tables(resumed, engine(then, optimizer), CPU)
    checkpoints.restore_optimizers(optimizers, tensors, rest)
    train(resumed, optimizers, range(5, 10))
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tables_in_files_train_bit_for_bit_as_in_memory(tmp_path, optimizer):
    def trained() -> torch.Tensor:
        group = model()
        train(group, place_tables(group, engine("compiled", optimizer), CPU), range(5))
        return group.table.weight.detach()

    with tables_in(tmp_path):
        mapped = trained()
    assert torch.equal(mapped, trained())
    assert not list(tmp_path.iterdir())


def test_a_table_in_a_file_is_a_shared_mapping_of_it(tmp_path):
    table = MappedFiles(tmp_path)("weight", (1000, 3))
    assert table.count_nonzero() == 0
    [line] = [
        one for one in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in one
    ]
    low, high = (int(end, 16) for end in line.split()[0].split("-"))
    assert low <= table.data_ptr() < high and line.split()[1] == "rw-s"


def test_a_disk_without_room_is_said_before_training(tmp_path):
    with pytest.raises(UserError, match=r"no room for .* GiB of embedding tables"):
        MappedFiles(tmp_path)("weight", (2**50, 16))
    assert not list(tmp_path.iterdir())


def test_the_number_of_threads_changes_no_bit():
    rows = 8 * ROWS_WORTH_A_THREAD
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 500, rows)
    gradients = rng.normal(size=(rows, 3)).astype("float32")
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 3, 4):
            torch.set_num_threads(number)
            results.append(sum_gradients(ids, gradients))
    finally:
        torch.set_num_threads(threads)
    for found, sums in results:
        np.testing.assert_array_equal(found, results[0][0])
        np.testing.assert_array_equal(sums, results[0][1])


@settings(max_examples=50, deadline=None)
@given(
    ids=arrays.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 2**40) | st.just(5)),
    bags=st.booleans(),
)
def test_gradients_are_summed_by_row(ids, bags):
    rng = np.random.default_rng(1)
    source = np.sort(rng.integers(0, 5, len(ids))) if bags else None
    gradients = rng.integers(-9, 9, (5 if bags else len(ids), 3)).astype("float32")
    rows, sums = sum_gradients(ids, gradients, source)
    each = gradients if source is None else gradients[source]
    expected = {row: each[ids == row].sum(0).tolist() for row in set(ids.tolist())}
    assert dict(zip(rows.tolist(), sums.tolist(), strict=True)) == expected


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("combiner", ["mean", "sum"])
def test_lists_become_the_mean_or_sum_of_their_vectors(store, combiner):
    group = TableGroup(Schema([column("a"), column("b", is_list=True)]), 4, "normal", combiner)
    before = group.table.weight.detach().clone()
    optimizers = place_tables(group, engine(store, "sgd"), CPU)
    inputs = {
        "a": torch.tensor([1, 2, 3]),
        "b__values": torch.tensor([5, 6, 6], dtype=torch.int32),
        "b__offsets": torch.tensor([0, 2, 2, 3]),
    }
    vectors = group(inputs)
    share = 0.5 if combiner == "mean" else 1.0
    expected = torch.stack([share * (before[ROWS + 5] + before[ROWS + 6]), torch.zeros(4)])
    torch.testing.assert_close(vectors["b"].detach()[:2], expected)
    torch.testing.assert_close(vectors["a"].detach(), before[[1, 2, 3]])
    for optimizer in optimizers:
        optimizer.zero_grad()
    vectors["b"].sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    moved = (before - group.table.weight.detach()) / 0.1
    torch.testing.assert_close(moved[ROWS + 5], torch.full((4,), share), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved[ROWS + 6], torch.full((4,), share + 1), rtol=1e-4, atol=1e-4)
    assert moved.abs().sum(1).count_nonzero() == 2


@pytest.mark.parametrize(
    "more, message",
    [
        ({"table_optimizer": "adam"}, "no adam on CPU"),
        ({"gradient_clip": 1.0}, "gradient_clip"),
        ({"table_weight_decay": 0.1}, "table_weight_decay"),
    ],
)
def test_a_store_that_cannot_do_it_says_why(more, message):
    wanted = EngineSettings(tables="fused", **more)
    kind = wanted.table_optimizer or wanted.optimizer
    with pytest.raises(UserError, match=f"train.tables: fused .*{message}"):
        choose_store(wanted, kind, CPU)
    assert choose_store(wanted.model_copy(update={"tables": "auto"}), kind, CPU) == "compiled"


def test_a_width_that_fbgemm_does_not_have_is_named():
    with pytest.raises(UserError, match="this model has width 1"):
        choose_store(engine("fused", "sgd"), "sgd", CPU, {16, 1})


@pytest.mark.parametrize("store", ["plain", "compiled"])
@pytest.mark.parametrize("linear", [None, 2.0])
def test_weights_of_single_codes_may_have_a_rate_of_their_own(store, linear):
    torch.manual_seed(0)
    schema = Schema([column("a"), column("b")])
    groups = torch.nn.ModuleList([TableGroup(schema, dim, "normal") for dim in (1, 4)])
    before = [group.table.weight.detach().clone() for group in groups]
    settings = engine(store, "sgd", table_learning_rate=0.5, linear_learning_rate=linear)
    optimizers = place_tables(groups, settings, CPU)
    assert len(optimizers) == (1 if linear is None else 2)
    sum(loss(group, batch(0)) for group in groups).backward()
    slopes = [group.table.weight.grad.to_dense() for group in groups]
    for optimizer in optimizers:
        optimizer.step()
    for group, start, slope, rate in zip(groups, before, slopes, (linear or 0.5, 0.5), strict=True):
        torch.testing.assert_close(group.table.weight.detach(), start - rate * slope)


@pytest.mark.parametrize("store", STORES)
def test_groups_of_several_widths_go_on_in_another_store(store):
    def both() -> torch.nn.ModuleList:
        torch.manual_seed(5)
        schema = Schema([column("a"), column("b")])
        return torch.nn.ModuleList([TableGroup(schema, dim, "normal") for dim in (4, 8)])

    def go(groups: torch.nn.ModuleList, optimizers: list, steps: range) -> None:
        for step in steps:
            for optimizer in optimizers:
                optimizer.zero_grad()
            sum(loss(group, batch(step)) for group in groups).backward()
            for optimizer in optimizers:
                optimizer.step()

    whole = both()
    go(whole, place_tables(whole, engine("compiled", "adagrad"), CPU), range(8))

    part = both()
    optimizers = place_tables(part, engine("compiled", "adagrad"), CPU)
    go(part, optimizers, range(4))
    weights = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    tensors, rest = checkpoints.optimizer_tensors(optimizers)
    resumed = both()
    resumed.load_state_dict(weights)
    optimizers = place_tables(resumed, engine(store, "adagrad"), CPU)
    checkpoints.restore_optimizers(optimizers, tensors, rest)
    go(resumed, optimizers, range(4, 8))
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=1e-5, atol=1e-6)


def test_tables_in_files_are_not_fused(tmp_path):
    with tables_in(tmp_path), pytest.raises(UserError, match="tables_out_of_core"):
        choose_store(engine("fused", "sgd"), "sgd", CPU)


def test_a_model_is_built_around_tables_in_a_file(tmp_path):
    target = ColumnSchema("y", dtype="int8", tags=[Tags.TARGET, Tags.BINARY_CLASSIFICATION])
    number = ColumnSchema("x", dtype="float32", tags=[Tags.CONTINUOUS])
    schema = Schema([target, number, column("a"), column("b")])
    small = DLRMSettings(embedding_dim=4, bottom_mlp=[4], top_mlp=[4])
    in_memory = ranking.build("dlrm", schema, small, seed=1)
    with tables_in(tmp_path):
        mapped = ranking.build("dlrm", schema, small, seed=1)
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    torch.testing.assert_close(mapped.state_dict(), in_memory.state_dict(), rtol=0, atol=0)
