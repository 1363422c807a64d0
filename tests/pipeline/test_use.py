"""``use``: recipes go over params.yaml and out of it again; lines of one's own stay as they are."""

import itertools
import random

import pytest
from ruamel.yaml import YAML

from core.errors import UserError
from core.settings import merge, read_yaml
from pipeline.__main__ import main
from pipeline.params import Params
from pipeline.stages.use import use
from pipeline.yaml_text import with_setting, without_setting
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SOME = [ROOT / "recipes" / f"{name}.yaml" for name in ("rees46", "yoochoose", "small", "movielens")]
PAIRS = list(itertools.permutations(SOME, 2))[::2]
SHORT = SOME[2:]
SHIPPED = (ROOT / "params.yaml").read_text()


@pytest.fixture
def params(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED)
    return path


def loaded(path):
    return YAML(typ="safe").load(path.read_text())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_laid_over_and_no_other_line_changes(recipe, params):
    use(recipe, params)
    tree, over = read_yaml(ROOT / "params.yaml"), read_yaml(recipe)
    for name, below in over.items():
        if isinstance(below, dict) and "columns" in below.get("source", {}):
            tree.get(name, {}).get("source", {}).pop("columns", None)
    assert loaded(params) == merge(tree, over)
    # Lines of recipes that are not in this one, and all comments above blocks, are as they were.
    after = params.read_text().splitlines()
    lines = [line for line in SHIPPED.splitlines() if line.lstrip().startswith("#")]
    assert [line for line in after if line in lines] == lines


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_recipes_do_not_mix(pair, params, tmp_path):
    use(pair[0], params)
    use(pair[1], params)
    (tmp_path / "alone").mkdir()
    alone = tmp_path / "alone" / "params.yaml"
    alone.write_text(SHIPPED)
    use(pair[1], alone)
    assert loaded(params) == loaded(alone)
    use(pair[1], params)
    assert loaded(params) == loaded(alone)


def test_what_was_changed_by_hand_stays(params, capsys):
    recipe = ROOT / "recipes" / "rees46.yaml"
    params.write_text(SHIPPED.replace("data/sessions/generated/log", "/data/mine"))
    use(recipe, params)
    assert "yours stays: sessions.source.path: /data/mine" in capsys.readouterr().out
    text = params.read_text().replace("learning_rate: 0.002", "learning_rate: 0.0077")
    assert text != params.read_text()
    params.write_text(text)
    use(recipe, params)
    assert loaded(params)["sessions"]["train"]["learning_rate"] == 0.0077
    assert loaded(params)["sessions"]["source"]["path"] == "/data/mine"
    assert "yours stays: sessions.train.learning_rate: 0.0077" in capsys.readouterr().out
    use(recipe, params, source="/data/other")
    use(recipe, params)
    assert loaded(params)["sessions"]["source"]["path"] == "/data/other"
    assert params.read_text() == text.replace("/data/mine", "/data/other")


@pytest.mark.parametrize("first", [True, False])
def test_a_run_killed_between_its_two_files_goes_on(first, params, monkeypatch):
    if not first:
        use(SHORT[0], params)
    before = params.read_text()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stages.use.write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            use(SHORT[1], params)
    assert params.read_text() == before
    use(SHORT[1], params)
    assert loaded(params) == loaded_alone(SHORT[1], params)
    use(SHORT[0], params)
    assert loaded(params) == loaded_alone(SHORT[0], params)


def test_a_file_that_was_put_back_takes_any_recipe(params):
    for recipe in SHORT:
        use(SHORT[0], params)
        params.write_text(SHIPPED)
        use(recipe, params)
        assert loaded(params) == loaded_alone(recipe, params)


def loaded_alone(recipe, params):
    """The settings after ``recipe`` alone."""
    alone = params.parent / "alone" / params.name
    alone.parent.mkdir(exist_ok=True)
    alone.write_text(SHIPPED)
    (alone.parent / f".{params.name}.use").unlink(missing_ok=True)
    use(recipe, alone)
    return loaded(alone)


def test_a_missing_log_is_named(params, tmp_path, capsys):
    recipe = tmp_path / "shop.yaml"
    recipe.write_text("sessions: {source: {path: nowhere}}\n")
    use(recipe, params)
    assert "sessions.source.path: nowhere does not exist here" in capsys.readouterr().out


def random_tree(rng, depth=0):
    keys = rng.sample("abcdefgh", rng.randrange(1, 5))
    return {key: random_value(rng, depth) for key in keys}


def random_value(rng, depth):
    if depth < 3 and rng.random() < 0.5:
        return random_tree(rng, depth + 1)
    plain = [1, 2.5, 1e-05, True, None, "x: y", "#no", "", "null", "a b", "0123", "☂"]
    if rng.random() < 0.3:
        return [rng.choice(plain) for _ in range(rng.randrange(0, 40))]
    return rng.choice(plain)


def written(tree, rng, indent=0):
    """A tree as a person may write it: blocks and lines, comments here and there."""
    from pipeline.yaml_text import in_flow

    lines = []
    for key, value in tree.items():
        note = rng.choice(["", "   # why", "  # a: {b"])
        if rng.random() < 0.2:
            lines.append(" " * indent + "# above")
        if isinstance(value, dict) and value and rng.random() < 0.7:
            lines.append(f"{' ' * indent}{key}:{note}")
            lines += written(value, rng, indent + rng.choice([1, 2, 4]))
        elif value is None and rng.random() < 0.5:
            lines.append(f"{' ' * indent}{key}:{note}")
        else:
            lines.append(f"{' ' * indent}{key}: {in_flow(value)}{note}")
        if rng.random() < 0.2:
            lines.append("")
    return lines


def test_any_setting_of_any_file_changes_alone():
    """150 files, a setting changed or added in each, then one taken out."""
    yaml = YAML(typ="safe")
    for seed in range(150):
        rng = random.Random(seed)
        tree = random_tree(rng)
        text = "\n".join(written(tree, rng)) + rng.choice(["", "\n", "\n# end\n"])
        assert yaml.load(text) == tree
        path, block = [], tree
        while True:
            path.append(rng.choice("abcdefgh"))
            if not isinstance(block.get(path[-1]), dict) or rng.random() < 0.3:
                break
            block = block[path[-1]]
        path += rng.sample("xyz", rng.randrange(0, 3)) if path[-1] not in block else []
        value = random_value(rng, 1)
        expected, over = tree, value
        for name in reversed(path):
            over = {name: over}
        expected = merge(without(tree, path), over)
        after = with_setting(text, tuple(path), value)
        assert yaml.load(after) == expected, (seed, text, path, value, after)
        comments = [line for line in text.splitlines() if line.lstrip().startswith("# above")]
        if path[-1] not in block:
            assert [line for line in after.splitlines() if line in comments] == comments
            # Every line that was there is there, but for one that had a block in one line.
            lost = set(text.splitlines()) - set(after.splitlines())
            assert len(lost) <= 1, (seed, lost)
        gone = without_setting(after, tuple(path))
        assert (yaml.load(gone) or {}) == pruned(expected, path), (seed, after, path, gone)


def test_a_comment_stays_on_the_line_of_its_setting():
    """400 changes between a value and a block, and back."""
    blocks = ({"a": 1, "b": {"c": [1, 2], "d": "x"}}, {"long": ["word"] * 30}, {"a": {"b": {}}})
    for seed in range(400):
        rng = random.Random(seed)
        note = rng.choice(["   # null: all of them", " #", "  # a: {b", ""])
        key, old = rng.choice(["x", "x y"]), rng.choice(["null", "7", "[1, 2]", "{q: 1}", "'#'"])
        before, after = "top:\n  first: 1  # one\n", rng.choice(["", "  last: 2  # two\n"])
        text = f"{before}  {key}: {old}{note}\n{after}"
        value = rng.choice(blocks)
        changed = with_setting(text, ("top", key), value)
        assert YAML(typ="safe").load(changed)["top"][key] == value, changed
        line = next(line for line in changed.splitlines() if line.startswith(f"  {key}:"))
        assert line.endswith(note) and changed.count("#") == text.count("#") - old.count("#"), (
            changed
        )
        back = with_setting(changed, ("top", key), YAML(typ="safe").load(old))
        assert back == text, (text, changed, back)


def without(tree, path):
    if path[0] not in tree:
        return tree
    if len(path) == 1:
        return {key: value for key, value in tree.items() if key != path[0]}
    return {**tree, path[0]: without(tree[path[0]] or {}, path[1:])}


def pruned(tree, path):
    inner = without(tree, path)
    if len(path) > 1:
        block = inner
        for name in path[:-1]:
            block = block[name]
        if not block:
            return pruned(tree, path[:-1])
    return inner


def test_files_go_over_params_yaml_and_columns_of_two_logs_do_not_mix(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(
        "sessions: {train: {epochs: 9, seed: 5}, source: {columns: {price: cost, brand: make}}}\n"
    )
    (tmp_path / "mine.yaml").write_text(
        "sessions: {train: {epochs: 7}, source: {columns: {item_id: sku, price: cost}}}\n"
    )
    command = ["settings", "sessions", "--settings", "mine.yaml", "--set", "sessions.train.seed=6"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "epochs: 7 " in printed and "seed: 6 " in printed and "columns.item_id: sku" in printed
    assert "columns.brand: null" in printed
    with pytest.raises(UserError, match="no such settings file"):
        Params.read([tmp_path / "none.yaml"])
