"""Compressed tables: which row a code reads, how rows are joined, sizes, and the start."""

import numpy as np
import pytest
import torch

from core.errors import UserError
from core.merlin import ColumnSchema, Schema, Tags
from tests.training import click_log
from tests.training.click_weights import values
from training import ranking
from training.batches import Batches
from training.compressed_tables import cardinality_dim, make_tables, mixed_dim
from training.engine import fit
from training.engine_settings import EngineSettings
from training.ranking.settings import TableSettings

ROWS = {"small": 30, "middle": 1_000, "large": 50_003}


def schema(shared=False, as_list=()):
    columns = []
    for name, rows in ROWS.items():
        domain = {"domain": {"min": 0, "max": rows - 1, "name": name}}
        kind = {"is_list": True, "is_ragged": True} if name in as_list else {}
        columns.append(
            ColumnSchema(name, dtype="int32", tags=[Tags.CATEGORICAL], properties=domain, **kind)
        )
    if shared:
        domain = {"domain": {"min": 0, "max": ROWS["large"] - 1, "name": "large"}}
        columns.append(
            ColumnSchema("other", dtype="int32", tags=[Tags.CATEGORICAL], properties=domain)
        )
    return Schema(columns)


def tables(dim=8, initialisation="dlrm", columns=None, **settings):
    torch.manual_seed(5)
    return make_tables(columns or schema(), dim, TableSettings(**settings), initialisation)


def codes(rows=400, seed=1):
    rng = np.random.default_rng(seed)
    return {name: torch.from_numpy(rng.integers(0, n, rows)) for name, n in ROWS.items()}


def size(module):
    return sum(p.numel() for p in module.parameters())


STARTS = {"dlrm": 1 / (3 * ROWS["large"]), "normal": 0.01**2}
"""Variance of a full table's entries before the first step."""


def variance_of_large(module):
    every = {name: torch.arange(0, ROWS["large"], 7) % n for name, n in ROWS.items()}
    return module(every)["large"].square().mean().item()


def row(group, name, code):
    return values(group.table.weight)[group.rows(name).start + code]


@pytest.mark.parametrize("operation", ["multiply", "add", "concatenate"])
def test_quotient_and_remainder(operation):
    found = tables(kind="quotient_remainder", operation=operation, collisions=8, threshold=100)
    inputs = codes(50)
    vectors = found(inputs)
    assert list(vectors) == list(ROWS)
    for i in range(50):
        np.testing.assert_allclose(
            values(vectors["small"][i]), row(found.full, "small", inputs["small"][i].item())
        )
        for name in ("middle", "large"):
            code = inputs[name][i].item()
            a = row(found.parts, f"{name}//", code // 8)
            b = row(found.parts, f"{name}%", code % 8)
            expected = {"multiply": a * b, "add": a + b, "concatenate": np.r_[a, b]}[operation]
            np.testing.assert_allclose(values(vectors[name][i]), expected, rtol=1e-6)


def test_every_code_keeps_a_vector_of_its_own():
    found = tables(kind="quotient_remainder", collisions=8)
    every = {name: torch.arange(50_003) % n for name, n in ROWS.items()}
    assert len(torch.unique(found(every)["large"], dim=0)) == 50_003


def test_an_eighth_of_the_size():
    full = size(tables())
    for operation in ("multiply", "add", "concatenate"):
        given = {"kind": "quotient_remainder", "operation": operation, "collisions": 8}
        share = size(tables(**given)) / full
        half = 2 if operation == "concatenate" else 1
        assert share == pytest.approx(1 / 8 / half, rel=0.02)
    assert size(tables(kind="hashed", collisions=8)) / full == pytest.approx(1 / 8, rel=0.01)


def test_hashed_codes_share_rows_by_their_remainder():
    found = tables(kind="hashed", collisions=4, threshold=100)
    inputs = codes(50)
    vectors = found(inputs)
    for i in range(50):
        code = inputs["large"][i].item() % 12_501
        np.testing.assert_array_equal(
            values(vectors["large"][i]), row(found.tables, "large#", code)
        )
    every = found({name: torch.arange(50_003) % n for name, n in ROWS.items()})
    assert len(torch.unique(every["large"], dim=0)) == 12_501
    assert len(torch.unique(every["small"], dim=0)) == 30


def test_mixed_dimensions():
    found = tables(dim=16, kind="mixed", temperature=0.3, threshold=0)
    # 16 · (1000/30)^-.3 = 5.6 → 2^round(2.48) = 4; 16 · (50003/30)^-.3 = 1.73 → 2^round(.79) = 2
    assert found.tables.dims == {"small": 16, "middle": 4, "large": 2}
    inputs = codes(20)
    vectors = found(inputs)
    groups = {name: g for g in found.tables.groups for name in g.names}
    for name in ROWS:
        raw = np.stack([row(groups[name], name, c.item()) for c in inputs[name]])
        if name != "small":
            raw = raw @ values(found.projections[name].weight).T
        np.testing.assert_allclose(values(vectors[name]), raw, rtol=1e-4, atol=1e-6)
    assert size(found) == 30 * 16 + 1_000 * 4 + 50_003 * 2 + 16 * 4 + 16 * 2
    assert mixed_dim(16, 1.0, 0.3) == mixed_dim(16, 0.2, 0.3) == 16
    assert mixed_dim(16, 1e12, 1.0) == 1


@pytest.mark.parametrize("initialisation", ["dlrm", "normal"])
@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "quotient_remainder", "operation": "multiply"},
        {"kind": "quotient_remainder", "operation": "add"},
        {"kind": "quotient_remainder", "operation": "concatenate"},
        {"kind": "hashed"},
        {"kind": "mixed"},
    ],
    ids=lambda s: s.get("operation", s["kind"]),
)
def test_vectors_start_with_the_deviation_of_a_full_table(settings, initialisation):
    found = []
    for seed in range(10):
        torch.manual_seed(seed)
        table = make_tables(
            schema(), 32, TableSettings(collisions=64, threshold=100, **settings), initialisation
        )
        found.append(variance_of_large(table))
    assert np.mean(found) == pytest.approx(STARTS[initialisation], rel=0.15)


@pytest.mark.parametrize("initialisation", ["dlrm", "normal"])
@pytest.mark.parametrize("kind", ["quotient_remainder", "hashed", "mixed"])
def test_they_still_have_it_in_a_model_whose_layers_are_started(kind, initialisation):
    log = click_log.schema(categorical=0)
    cls = ranking.settings_class("dlrm")
    given = {"tables": {"kind": kind, "collisions": 64, "threshold": 100}, "embedding_dim": 32}
    settings = cls(bottom_mlp=[4], top_mlp=[4], initialisation=initialisation, **given)
    models = (ranking.build("dlrm", log + schema(), settings, seed) for seed in range(10))
    found = [variance_of_large(model.body.tables) for model in models]
    assert np.mean(found) == pytest.approx(STARTS[initialisation], rel=0.15)


def test_columns_of_one_domain_share_compressed_rows():
    for settings in ({"kind": "quotient_remainder"}, {"kind": "hashed"}, {"kind": "mixed"}):
        found = tables(columns=schema(shared=True), **settings)
        inputs = codes(30)
        vectors = found({**inputs, "other": inputs["large"]})
        if settings["kind"] != "mixed":  # its projection is a column's own
            assert torch.equal(vectors["large"], vectors["other"])
        assert size(found) <= size(tables(**settings)) + 8 * 8


def test_lists_of_codes():
    columns = schema(as_list=["large"])
    inputs = codes(3)
    inputs["large__values"] = inputs.pop("large").repeat(2)
    inputs["large__offsets"] = torch.tensor([0, 2, 3, 6])
    for kind in ("quotient_remainder", "hashed", "mixed"):
        vectors = tables(kind=kind, columns=columns)(inputs)
        assert vectors["large"].shape == (3, 8)
    hashed = tables(kind="hashed", columns=columns, threshold=100)
    bag = [row(hashed.tables, "large#", c.item() % 12_501) for c in inputs["large__values"][:2]]
    found = values(hashed(inputs)["large"][0])
    np.testing.assert_allclose(found, np.mean(bag, axis=0), rtol=1e-5)


def test_widths_by_cardinality():
    assert [cardinality_dim(n) for n in (1, 30, 1_000, 50_003)] == [2, 5, 11, 30]
    vectors = tables(dim="cardinality")(codes(4))
    assert [v.shape for v in vectors.values()] == [(4, 5), (4, 11), (4, 30)]
    for initialisation, variance in STARTS.items():
        found = tables(dim="cardinality", initialisation=initialisation)
        assert variance_of_large(found) == pytest.approx(variance, rel=0.02)


def test_what_excludes_each_other_is_named():
    with pytest.raises(UserError, match=r"tables.kind hashed: .* embedding_dim .*'cardinality'"):
        tables(dim="cardinality", kind="hashed")
    with pytest.raises(UserError, match=r"embedding_dim 5: tables.operation concatenate"):
        tables(dim=5, kind="quotient_remainder", operation="concatenate")


@pytest.mark.parametrize("kind", ["quotient_remainder", "hashed", "mixed"])
@pytest.mark.parametrize("name", ["dlrm", "deepfm", "dcnv2", "attention_dlrm"])
def test_models_with_compressed_tables_learn_their_rows(name, kind):
    cls = ranking.settings_class(name)
    given = {"tables": {"kind": kind, "threshold": 4, "collisions": 5}, "cross_rank": 2}
    given = {field: value for field, value in given.items() if field in cls.model_fields}
    settings = cls(embedding_dim=4, **given)
    model = ranking.build(name, click_log.schema(), settings, seed=1)
    table = click_log.table(6, seed=2)
    batch = {c: torch.from_numpy(table[c].to_numpy().copy()) for c in table.column_names}
    model.loss((batch, batch.pop("label").float())).backward()
    for parameter, weight in model.named_parameters():
        assert weight.grad is not None, parameter


@pytest.mark.parametrize("name", ["fm", "dcnv2"])
@pytest.mark.parametrize("kind", ["quotient_remainder", "hashed", "mixed"])
def test_the_training_loop_takes_them(name, kind, tmp_path):
    columns = click_log.schema()
    batches = []
    for split, seed in (("train", 1), ("valid", 2)):
        click_log.write(tmp_path / split, 600, seed)
        batches.append(Batches(tmp_path / split, columns, 64, shuffle=split == "train"))
    cls = ranking.settings_class(name)
    given = {"deep_mlp": [16], "dropout": 0.0, "cross_rank": 2}
    given = {field: value for field, value in given.items() if field in cls.model_fields}
    tables = {"kind": kind, "threshold": 4, "collisions": 4}
    model = ranking.build(name, columns, cls(embedding_dim=4, tables=tables, **given), seed=1)
    settings = EngineSettings(epochs=3, batch_size=64, learning_rate=0.05, validate_every=1)
    assert fit(model, *batches, settings, tmp_path / "run").metrics["auc"] > 0.65
