import itertools
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from core.errors import UserError
from core.merlin import ColumnSchema, Schema, Tags
from training.batches import Batches

ROWS = 275
BATCH = 16


def make_schema(last_id=ROWS):
    return Schema(
        [
            ColumnSchema("label", dtype="int8", tags=[Tags.TARGET]),
            ColumnSchema(
                "id",
                dtype="int32",
                tags=[Tags.CATEGORICAL],
                properties={"domain": {"min": 0, "max": last_id}},
            ),
            ColumnSchema("number", dtype="float64", tags=[Tags.CONTINUOUS]),
            ColumnSchema("items", dtype="int64", dims=(None, (0, None))),
        ]
    )


def make_table(ids):
    """Every column of a row tells its id; row ``i``'s list is ``i``, ``i % 4`` times."""
    lengths = ids % 4
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("int32")
    return pa.table(
        {
            "label": (ids % 2).astype("int8"),
            "id": ids.astype("int32"),
            "number": ids / 2,
            "items": pa.ListArray.from_arrays(offsets, np.repeat(ids, lengths)),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("split")
    for part, ids in enumerate(np.split(np.arange(ROWS), [100, 130])):
        pq.write_table(make_table(ids), path / f"part-{part}.parquet", row_group_size=20)
    return path


def batches(folder, **options):
    return Batches(folder, make_schema(), BATCH, **{"chunk_rows": 50, **options})


def read(loader):
    """The ids of each batch, every other column checked against them."""
    found = []
    for inputs, targets in loader:
        ids = inputs["id"]
        offsets, values = inputs["items__offsets"], inputs["items__values"]
        assert (ids.dtype, inputs["number"].dtype) == (torch.int32, torch.float32)
        assert (values.dtype, offsets.dtype, targets.dtype) == (
            torch.int64,
            torch.int64,
            torch.float32,
        )
        assert torch.equal(targets, (ids % 2).float())
        assert torch.equal(inputs["number"], ids / 2)
        assert offsets[0] == 0 and offsets[-1] == len(values)
        assert torch.equal(offsets.diff(), (ids % 4).long())
        assert torch.equal(values, ids.long().repeat_interleave(ids % 4))
        found.append(ids.tolist())
    return found


def joined(parts):
    return list(itertools.chain.from_iterable(parts))


def test_unshuffled_keeps_the_order_of_the_files(folder):
    found = read(batches(folder, shuffle=False))
    assert joined(found) == list(range(ROWS))
    assert [len(b) for b in found] == [BATCH] * (ROWS // BATCH) + [ROWS % BATCH]


def test_an_epoch_holds_every_row_once_and_each_has_its_own_order(folder):
    loader = batches(folder)
    epochs = [read(loader) for _ in range(3)]
    for epoch in epochs:
        assert sorted(joined(epoch)) == list(range(ROWS))
        assert len(epoch) == len(loader)
    assert epochs[0] != epochs[1] != epochs[2]
    # Not only within a partition: the first batches come from different files.
    assert len({id_ // 100 for epoch in epochs for id_ in epoch[0]}) > 1
    assert read(batches(folder)) == epochs[0]
    assert read(batches(folder, seed=1)) != epochs[0]


def test_the_order_comes_from_the_rows_however_they_are_cut(folder, tmp_path):
    """Random cuts into files and row groups: the batches of two epochs, of all ranks."""
    rng = np.random.default_rng(0)
    table = make_table(np.arange(ROWS))
    expected = {}
    for trial in range(40):
        chunk_rows = int(rng.choice([1, 7, 50, 100, 1000]))
        cut = tmp_path / str(trial)
        cut.mkdir()
        bounds = np.unique(rng.integers(0, ROWS, rng.integers(0, 9)))
        for part, (first, end) in enumerate(itertools.pairwise([0, *bounds, ROWS])):
            size = int(rng.integers(1, 120))
            piece = table.slice(first, end - first)
            pq.write_table(piece, cut / f"part-{part}.parquet", row_group_size=size)
        loader = batches(cut, chunk_rows=chunk_rows)
        epochs = [read(loader) for _ in range(2)]
        assert epochs == expected.setdefault(chunk_rows, epochs)
        position = int(rng.integers(len(loader)))
        loader.set_position(1, position)
        assert read(loader) == epochs[1][position:]
        assert joined(read(batches(cut, shuffle=False))) == list(range(ROWS))


def test_any_position_resumes_exactly(folder):
    whole = read(batches(folder))
    for batch in range(len(whole)):
        loader = batches(folder)
        loader.set_position(0, batch)
        assert read(loader) == whole[batch:]
        assert loader.state() == {"epoch": 1, "batch": 0}


def test_position_moves_with_the_batches_handed_out(folder):
    loader = batches(folder)
    iterator = iter(loader)
    first = [next(iterator)[0]["id"].tolist() for _ in range(3)]
    assert loader.state() == {"epoch": 0, "batch": 3}
    iterator.close()
    rest = read(loader)
    assert first + rest == read(batches(folder))


def test_skipped_row_groups_are_not_read(folder, monkeypatch):
    import training.batches as module

    read_rows = []
    original = module._read
    monkeypatch.setattr(
        module,
        "_read",
        lambda groups, schema: (
            read_rows.append(sum(g.rows for g in groups)) or original(groups, schema)
        ),
    )
    loader = batches(folder)
    loader.set_position(0, len(loader) - 1)
    read(loader)
    assert len(read_rows) == 1


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_share_every_batch(folder, world_size):
    # Eight ranks are more than there are files.
    whole = read(batches(folder))
    ranks = [read(batches(folder, rank=r, world_size=world_size)) for r in range(world_size)]
    assert {len(rank) for rank in ranks} == {len(whole)}
    assert [joined(parts) for parts in zip(*ranks, strict=True)] == whole


def test_drop_last_and_chosen_columns(folder):
    loader = batches(folder, drop_last=True, columns=["number"])
    found = list(loader)
    assert {tuple(inputs) for inputs, _ in found} == {("number",)}
    assert {len(targets) for _, targets in found} == {BATCH}
    assert len(found) == len(loader) == ROWS // BATCH


def test_several_targets_and_none(folder):
    two = Schema([make_schema()["label"], make_schema()["id"].with_tags([Tags.TARGET])])
    _, targets = next(iter(Batches(folder, two, BATCH)))
    assert set(targets) == {"label", "id"}
    inputs, targets = next(iter(Batches(folder, make_schema().select_by_name(["id"]), BATCH)))
    assert targets is None and set(inputs) == {"id"}


def test_an_abandoned_iteration_leaves_no_thread(folder):
    before = threading.active_count()
    for _ in batches(folder, chunk_rows=1):
        break
    assert threading.active_count() == before


def test_fingerprint_follows_the_content(folder, tmp_path):
    same = [batches(folder).fingerprint for _ in range(2)]
    pq.write_table(make_table(np.arange(ROWS)), tmp_path / "part-0.parquet")
    assert same[0] == same[1] != batches(tmp_path).fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["number"]), "no column number"),
        (lambda t: t.slice(0, 0), "no rows"),
        (
            lambda t: t.set_column(1, "id", pa.array([ROWS + 1] * len(t), "int32")),
            f"column id holds ids from {ROWS + 1} to {ROWS + 1}, its schema allows 0 to {ROWS}",
        ),
        (
            lambda t: t.set_column(2, "number", pa.array(["one"] * len(t))),
            "column number is string, expected numbers",
        ),
        (
            lambda t: t.set_column(2, "number", pa.array([None] * len(t), "float32")),
            "column number holds nulls",
        ),
    ],
)
def test_faults_name_file_and_column(tmp_path, change, message):
    pq.write_table(change(make_table(np.arange(40))), tmp_path / "part-0.parquet")
    with pytest.raises(UserError, match=message) as caught:
        read(batches(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_other_faults(folder, tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        batches(tmp_path / "absent")
    with pytest.raises(UserError, match=r"holds no \*\.parquet"):
        batches(tmp_path)
    with pytest.raises(UserError, match="no column price"):
        batches(folder, columns=["price"])
    with pytest.raises(UserError, match="multiple of the number of processes, 3"):
        batches(folder, world_size=3)
    (tmp_path / "part-0.parquet").write_bytes((folder / "part-0.parquet").read_bytes()[:-20])
    with pytest.raises(UserError, match="not a whole Parquet file"):
        batches(tmp_path)
