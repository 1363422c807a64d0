"""Settings and columns that do not fit a model: refused before training, with names."""

import pytest

from core.errors import UserError
from core.merlin import ColumnSchema, Schema, Tags
from core.settings import validate
from tests.training import click_log
from training import ranking

SCHEMA = click_log.schema()
# An ensemble's needs are its members'.
ONE_LABEL = [n for n in ranking.MODELS if n not in (*ranking.SEVERAL_LABELS, "ensemble")]
MULTIPLYING = ["dlrm", "fm", "deepfm", "afm", "attention_dlrm"]


def build(name, schema=SCHEMA, **settings):
    return ranking.build(name, schema, ranking.settings_class(name)(**settings))


@pytest.mark.parametrize("name", ONE_LABEL)
def test_a_model_without_its_columns_names_them(name):
    nothing = SCHEMA.select_by_tag(Tags.TARGET)
    with pytest.raises(UserError, match=rf"model {name}: needs columns tagged"):
        build(name, nothing)
    with pytest.raises(UserError, match="a column tagged BINARY_CLASSIFICATION"):
        build(name, SCHEMA.excluding_by_tag(Tags.TARGET))


@pytest.mark.parametrize("name", ["dlrm", "attention_dlrm"])
def test_models_that_need_codes(name):
    with pytest.raises(UserError, match=rf"model {name}: needs columns tagged CATEGORICAL"):
        build(name, SCHEMA.excluding_by_tag(Tags.CATEGORICAL))


@pytest.mark.parametrize("name", [n for n in ONE_LABEL if n not in ("dlrm", "attention_dlrm")])
@pytest.mark.parametrize("kind", [Tags.CATEGORICAL, Tags.CONTINUOUS])
def test_others_do_with_one_kind(name, kind):
    small = {"cross_rank": 2} if name == "dcnv2" else {}
    assert build(name, SCHEMA.excluding_by_tag(kind), **small)


def test_attention_dlrm_does_without_numbers():
    assert build("attention_dlrm", SCHEMA.excluding_by_tag(Tags.CONTINUOUS)).body.bottom is None


@pytest.mark.parametrize("name", MULTIPLYING)
def test_tables_of_different_widths_are_refused_where_vectors_are_multiplied(name):
    domain = {"domain": {"min": 0, "max": 999, "name": "C9"}}
    wide = ColumnSchema("C9", dtype="int32", tags=[Tags.CATEGORICAL], properties=domain)
    message = rf"model {name}: ranking.{name}.embedding_dim 'cardinality' .*\(C1: 4, C9: 11\)"
    with pytest.raises(UserError, match=message):
        build(name, Schema([*SCHEMA, wide]), embedding_dim="cardinality")


@pytest.mark.parametrize("wrong", ["abc", 0, 1.5, True])
def test_a_wrong_width_is_told_what_it_may_be(wrong):
    message = (
        f"embedding_dim: expected a whole number of 1 or more, or 'cardinality', got {wrong!r}"
    )
    with pytest.raises(UserError, match=message):
        validate(ranking.settings_class("deepfm"), {"embedding_dim": wrong}, "params.yaml")


def test_one_column_has_no_pairs():
    alone = SCHEMA.select_by_name(["label", "C2"])
    for name in ("afm", "attention_dlrm"):
        with pytest.raises(UserError, match=f"model {name}: needs two columns .* C2 alone"):
            build(name, alone)


def test_afm_of_categories_alone_needs_two():
    with pytest.raises(UserError, match=r"model afm: needs two columns .* C2 alone"):
        build("afm", SCHEMA.select_by_name(["label", "C2", "I1"]), pairs="categorical")
    with pytest.raises(UserError, match="model afm: needs columns tagged CATEGORICAL"):
        build("afm", SCHEMA.select_by_name(["label", "I1"]), pairs="categorical")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([{"model": "fm"}], "members"),
        ([{"model": "fm"}, {"model": "dlmr"}], "'dlmr' is no click model; known: dlrm, "),
        ([{"model": "fm"}, {"model": "ensemble"}], "'ensemble' is no click model"),
        ([{"model": "fm"}, {"model": "mmoe"}], "'mmoe' is no click model"),
        (
            [{"model": "fm"}, {"model": "dcn", "settings": {"embeding_dim": 4}}],
            "ranking.ensemble.members, dcn: .*embeding_dim",
        ),
        (
            [{"model": "fm"}, {"model": "dcn", "settings": {"train": {"epochs": 4}}}],
            "dcn: members are trained together",
        ),
    ],
)
def test_members_of_an_ensemble_that_cannot_be(members, message):
    with pytest.raises(UserError, match=message):
        validate(ranking.settings_class("ensemble"), {"members": members}, "params.yaml")


def test_a_column_of_vectors_is_named():
    vectors = ColumnSchema("image", dtype="float32", is_list=True, tags=[Tags.CONTINUOUS])
    with pytest.raises(UserError, match="model deepfm: column image holds lists of numbers"):
        build("deepfm", Schema([*SCHEMA, vectors]))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("wide_and_deep", {"wide": ("C7",)}, r"ranking.wide_and_deep.wide: .*no column C7; .* C4"),
        ("wide_and_deep", {"crosses": ("C1_X_C2",)}, r"\.crosses: .*no column C1_X_C2.*workflow"),
        ("wide_and_deep", {"wide": ()}, r"\.wide: names no column"),
        (
            "wide_and_deep",
            {"crosses": tuple(SCHEMA.excluding_by_tag(Tags.TARGET).column_names)},
            r"\.crosses: names every column",
        ),
        ("finalmlp", {"heads": 3}, r"ranking.finalmlp.first_mlp ends in 400 .*heads 3"),
        ("finalmlp", {"second_context": ("C7",)}, r"finalmlp.second_context: .* no column C7"),
        (
            "dcnv2",
            {"cross": "low_rank", "cross_rank": 67},
            r"model dcnv2: ranking.dcnv2.cross_rank: 67 is not below .*, 67",
        ),
    ],
)
def test_a_setting_that_does_not_fit_the_features_is_named(name, settings, message):
    with pytest.raises(UserError, match=message):
        build(name, **settings)
