"""Errors before the first step, and where a number is no longer finite."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from core.errors import UserError
from core.merlin import Schema
from tests.training import click_log
from tests.training.small_model import (
    BATCH,
    SCHEMA,
    Small,
    settings,
    train,
    write_splits,
)
from training import checkpoints, ranking, run
from training.batches import Batches
from training.columns import table_slices
from training.engine import fit
from training.ranking.dlrm import DLRMSettings

NAN = float("nan")


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return write_splits(tmp_path_factory.mktemp("features"))


def dlrm(schema=SCHEMA):
    sizes = DLRMSettings(embedding_dim=4, bottom_mlp=[8], top_mlp=[8])
    return ranking.build("dlrm", schema, sizes, seed=3)


def at_step(model, wanted, change):
    """Has ``change`` done to the loss of one step."""
    loss, calls = model.loss, []

    def changed(batch):
        calls.append(1)
        found = loss(batch)
        return change(found) if len(calls) == wanted else found

    model.loss = changed
    return model


def newest(folder):
    return max((folder / "checkpoints").glob("step-*")).name


def test_a_loss_that_is_not_finite_stops_the_run(splits, tmp_path):
    model = Small()
    model.at_step = lambda step: step == 6 and model.linear.bias.data.fill_(float("inf"))
    with pytest.raises(UserError, match=r"step 6: the loss is (nan|inf).*not finite: linear.bias"):
        train(splits, tmp_path, model)
    assert newest(tmp_path) == "step-000000003.safetensors"


def test_an_input_that_is_not_finite_is_named(tmp_path):
    table = click_log.table(64, seed=1)
    numbers = table["I2"].to_numpy().copy()
    numbers[40] = NAN
    (tmp_path / "train").mkdir()
    pq.write_table(table.set_column(2, "I2", [numbers]), tmp_path / "train" / "part-0.parquet")
    batches = Batches(tmp_path / "train", SCHEMA, 16, shuffle=False)
    with pytest.raises(UserError, match="step 3: the loss is nan: I2 hold NaN"):
        fit(Small(), batches, None, settings(), tmp_path / "model")


def spoil_rows(model, *cells):
    """Writes NaN into rows ``(column, code)`` of the tables."""
    parts = {part.column: part for part in table_slices(model)}
    with torch.no_grad():
        for column, code in cells:
            parts[column].parameter[parts[column].first + code] = NAN


@pytest.mark.parametrize("tables", ["plain", "compiled"])
def test_rows_of_tables_are_named_by_column_and_code(splits, tmp_path, tables):
    model = dlrm()
    cells = [("C2", 5), ("C2", 17), ("C4", 0)]

    def spoil(loss):
        spoil_rows(model, *cells)
        return loss

    at_step(model, 5, spoil)
    # Rows 5 and 17 are looked up at the next step, or the one after.
    named = r"table of C2, 2 of its rows \(codes 5, 17\).*table of C4, 1 of its rows \(codes 0\)"
    with pytest.raises(UserError, match=f"step [67]: the loss is nan, though.*{named}"):
        train(splits, tmp_path, model, tables=tables, checkpoint_every_steps=4)
    assert newest(tmp_path) == "step-000000004.safetensors"


def test_rows_that_no_batch_asks_for_are_found_before_they_are_kept(splits, tmp_path):
    model = dlrm()

    def spoil(loss):
        spoil_rows(model, ("C3", 0))  # a code that the log does not have
        return loss

    at_step(model, 5, spoil)
    with pytest.raises(UserError, match=r"step 6: weights are NaN.*table of C3.*\(codes 0\)"):
        train(splits, tmp_path, model)
    assert newest(tmp_path) == "step-000000003.safetensors"


@pytest.mark.parametrize(
    ("every", "message", "kept"),
    [(3, "step 6: the loss is nan", 3), (5, "step 5: weights are NaN or infinite", None)],
)
def test_a_gradient_that_is_not_finite(splits, tmp_path, every, message, kept):
    model = Small()
    # Finite itself, its slope is 0 times infinity.
    at_step(model, 5, lambda loss: loss + (0 * model.linear.weight[0, 0]).sqrt())
    with pytest.raises(UserError, match=rf"{message}.*linear\.weight"):
        train(splits, tmp_path, model, checkpoint_every_steps=every)
    files = sorted((tmp_path / "checkpoints").glob("step-*"))
    assert [file.name for file in files] == ([f"step-{kept:09d}.safetensors"] if kept else [])


def test_a_resumed_run_goes_on_from_the_last_good_checkpoint(splits, tmp_path):
    model = Small()
    at_step(model, 8, lambda loss: loss * NAN)
    with pytest.raises(UserError, match="step 8: the loss is nan"):
        train(splits, tmp_path / "one", model, epochs=1)
    undisturbed, _ = train(splits, tmp_path / "two", epochs=1)
    resumed, _ = train(splits, tmp_path / "one", epochs=1)
    assert resumed.steps == 20 - 6 and torch.equal(resumed.linear.weight, undisturbed.linear.weight)


def test_losses_that_are_fetched_together_tell_their_own_step(splits, tmp_path, monkeypatch):
    _, expected = train(splits, tmp_path / "one by one")
    monkeypatch.setitem(run.LOSSES_HELD, "cpu", 16)
    _, found = train(splits, tmp_path / "together")
    assert found.history == expected.history
    model = at_step(Small(), 8, lambda loss: loss * NAN)
    with pytest.raises(UserError, match="step 8: the loss is nan"):
        train(splits, tmp_path / "nan", model, checkpoint_every_steps=4)
    assert newest(tmp_path / "nan") == "step-000000004.safetensors"


def wider(schema, name, largest):
    columns = []
    for column in schema:
        if column.name == name:
            domain = {"min": 0, "max": largest, "name": name}
            column = column.with_properties({"domain": domain})
        columns.append(column)
    return Schema(columns)


def test_ids_outside_a_table_are_found_before_the_first_step(splits, tmp_path):
    wide = wider(SCHEMA, "C3", 30)
    model = dlrm()
    at_step(model, 1, lambda loss: pytest.fail("a step was made"))
    for train_schema, valid_schema, split in ((wide, SCHEMA, "train"), (SCHEMA, wide, "valid")):
        batches = Batches(splits / "train", train_schema, BATCH)
        valid = Batches(splits / "valid", valid_schema, BATCH)
        with pytest.raises(UserError, match=f"{split}: column C3 has ids up to 30.* 20 rows"):
            fit(model, batches, valid, settings(), tmp_path)
    narrow = wider(SCHEMA, "C3", 10)
    with pytest.raises(UserError, match="C3"):
        Batches(splits / "train", narrow, BATCH)


def test_a_column_that_the_model_reads_has_to_be_asked_for(splits, tmp_path):
    batches = Batches(splits / "train", SCHEMA, BATCH, columns=["I1", "I2", "I3", "C1", "C2", "C3"])
    with pytest.raises(UserError, match="train: the model reads column C4"):
        fit(dlrm(), batches, None, settings(), tmp_path)


def test_an_empty_split_is_named(splits, tmp_path):
    (tmp_path / "valid").mkdir()
    empty = pa.table({name: [] for name in SCHEMA.column_names})
    pq.write_table(empty, tmp_path / "valid" / "part-0.parquet")
    with pytest.raises(UserError, match="valid: no rows"):
        Batches(tmp_path / "valid", SCHEMA, BATCH)


def test_weights_for_another_schema_name_the_column(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoints.save_weights(path, dlrm())
    checkpoints.load_weights(path, dlrm())
    for schema, named in (
        (wider(SCHEMA, "C2", 24), "the table of column C2 has 20 rows, the schema asks for 25"),
        (SCHEMA.excluding_by_name(["C3"]), "column C3 is not in the features"),
        (click_log.schema(dense=4), "column I4 was not there in training"),
    ):
        with pytest.raises(UserError, match=f"model.safetensors.*{named}"):
            checkpoints.load_weights(path, dlrm(schema))


def test_an_unfinished_run_on_another_schema_is_not_thrown_away(splits, tmp_path):
    model = Small()
    at_step(model, 8, lambda loss: loss * NAN)
    with pytest.raises(UserError):
        train(splits, tmp_path, model)
    other = Small()
    other.table = torch.nn.Embedding(25, 3)
    with pytest.raises(UserError, match=r"step-000000006.*table of column table has 20 rows.* 25"):
        train(splits, tmp_path, other)
    assert newest(tmp_path) == "step-000000006.safetensors"
