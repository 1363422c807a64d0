"""SASRec, GRU4Rec and CORE against forward passes written out in NumPy, one prefix at a time."""

import numpy as np
import pytest
import torch

from core.errors import UserError
from tests.training.session_examples import (
    ITEMS,
    batch_of,
    random_sessions,
    session_schema,
    write_sessions,
)
from tests.training.session_models import SIDE, step_scores
from training.batches import Batches
from training.sessions import build
from training.sessions.fitting import observe
from training.sessions.ragged import by_length, pad, training_windows
from training.sessions.sasrec import SASRecSettings

OURS = ("sasrec", "gru4rec", "core")
SMALL = {"d_model": 8, "max_length": 5, "embedding_std": 0.5, "side_dim": 3}
PREFIX = [5, 9, 7, 12]


def weights_of(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def made(name, **settings):
    torch.manual_seed(0)
    model = build(name, session_schema(*SIDE), {**SMALL, **settings})
    # Weights of the size that they have after training, biases that are not 0.
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dim() < 3:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def score(model, prefix):
    """The model's scores after a prefix of items, ``(num_items,)``."""
    with torch.no_grad():
        return model.scores({"item_id": torch.tensor([prefix])})[0].numpy()


def norm(x, weights, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def gelu(x):
    erf = torch.erf(torch.from_numpy(x) / np.sqrt(2)).numpy()
    return x * (1 + erf) / 2


def causal_attention(query, key, value):
    """Each row of ``query`` over the rows of ``key`` up to its own."""
    found = []
    for last in range(len(query)):
        weights = np.exp(key[: last + 1] @ query[last] / np.sqrt(len(query[last])))
        found.append((weights / weights.sum()) @ value[: last + 1])
    return np.array(found)


def transformer(x, weights, pre_norm=True, heads=2, layers=2):
    """The network's output at every event, ``(events, d_model)``."""
    x = x + weights["network.positions"][: len(x)]
    for number in range(layers):
        at = f"network.layers.{number}"

        def attention(x, at=at):
            parts = np.split(linear(x, weights, f"{at}.attend"), 3, axis=1)
            heads_of = zip(*(np.split(part, heads, axis=1) for part in parts), strict=True)
            joined = np.concatenate([causal_attention(*head) for head in heads_of], axis=1)
            return linear(joined, weights, f"{at}.join")

        def feed_forward(x, at=at):
            inside = gelu(linear(x, weights, f"{at}.feed_forward.0"))
            return linear(inside, weights, f"{at}.feed_forward.3")

        for part, name in ((attention, "attention_norm"), (feed_forward, "forward_norm")):
            if pre_norm:
                x = x + part(norm(x, weights, f"{at}.{name}"))
            else:
                x = norm(x + part(x), weights, f"{at}.{name}")
    return norm(x, weights, "network.norm") if pre_norm else x


@pytest.mark.parametrize("kind", ["pre", "post"])
def test_sasrec(kind):
    model = made("sasrec", norm=kind, similarity="dot", temperature=0.5)
    weights = weights_of(model)
    table = weights["items.inputs.item_id.weight"]
    hidden = transformer(table[PREFIX], weights, kind == "pre")[-1]
    np.testing.assert_allclose(score(model, PREFIX), table @ hidden / 0.5, rtol=1e-4, atol=1e-4)


def test_gru4rec():
    model = made("gru4rec", layers=2, similarity="dot", temperature=1.0)
    weights = weights_of(model)
    table = weights["items.inputs.item_id.weight"]

    def gates(x, kind, layer):
        values = x @ weights[f"network.weight_{kind}_l{layer}"].T
        return np.split(values + weights[f"network.bias_{kind}_l{layer}"], 3)

    states = np.zeros((2, 8), np.float32)
    for x in table[PREFIX]:
        for layer in range(2):
            (ri, zi, ni), (rh, zh, nh) = gates(x, "ih", layer), gates(states[layer], "hh", layer)
            reset, update = 1 / (1 + np.exp(-ri - rh)), 1 / (1 + np.exp(-zi - zh))
            new = np.tanh(ni + reset * nh)
            x = states[layer] = (1 - update) * new + update * states[layer]
    np.testing.assert_allclose(score(model, PREFIX), table @ states[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["attention", "mean"])
def test_core(kind):
    model = made("core", weights=kind)
    weights = weights_of(model)
    table = weights["items.inputs.item_id.weight"]
    events = table[PREFIX]
    session = events.mean(0)
    if kind == "attention":
        found = transformer(events, weights)
        query, key = (linear(found, weights, f"weigh.{number}") for number in (0, 1))
        session = causal_attention(query, key, events)[-1]
    lengths = np.linalg.norm(table, axis=1).clip(1e-12) * np.linalg.norm(session)
    expected = table @ session / lengths / 0.07
    np.testing.assert_allclose(score(model, PREFIX)[1:], expected[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_a_mixture_of_softmaxes(similarity, monkeypatch):
    """The softmax of the scores is the mixture of softmaxes, each weighted with its gate's share
    times its partition function; pairs are scored as all items are."""
    model = made("sasrec", mixtures=3, similarity=similarity, temperature=0.5)
    weights = weights_of(model)
    hidden = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    table = weights["items.inputs.item_id.weight"][3:]
    asked = linear(hidden, weights, "items.asks").reshape(4, 3, 9)
    total = np.zeros((4, len(table)))
    for gate, ask in ((asked[:, k, :1], hidden + asked[:, k, 1:]) for k in range(3)):
        logits = ask @ table.T
        if similarity == "cosine":
            logits /= np.outer(np.linalg.norm(ask, axis=1), np.linalg.norm(table, axis=1))
        total += np.exp(gate + logits / 0.5)
    with torch.no_grad():
        candidates = model.items.candidates()[3:]
        found = model.items.scores(torch.from_numpy(hidden), candidates)
        pairs = model.items.pair_scores(torch.from_numpy(hidden), candidates[[5, 0, 9, 5]])
    expected = total / total.sum(1, keepdims=True)
    np.testing.assert_allclose(found.softmax(1).numpy(), expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(pairs, found[range(4), [5, 0, 9, 5]])
    monkeypatch.setattr("training.sessions.items.ITEMS_AT_ONCE", 7)
    blocks = model.items.all_scores(torch.from_numpy(hidden))
    torch.testing.assert_close(blocks[:, 3:], found)


@pytest.mark.parametrize("name", OURS)
def test_training_compares_what_the_scores_come_from(name):
    """Each step once, whatever the length of its session, from the prefix that scoring sees."""
    model = made(name, side_features=SIDE, max_length=12)
    batch = batch_of(random_sessions(9, longest=9, seed=3))
    seen = []
    model.objective.register_forward_hook(lambda _, given, __: seen.append(given))
    with torch.no_grad():
        _, count = model.weighted_loss(batch)
        hidden, targets, viewed, items = seen[0]
        trained = items.scores(hidden, items.candidates())
    expected = step_scores(model, batch)
    assert count == len(expected) == len(targets)
    values = batch[0]["item_id__values"].tolist()
    steps = [i for i in range(1, len(values)) if i not in batch[0]["item_id__offsets"].tolist()]
    order = np.lexsort(trained.T.numpy()), np.lexsort(expected.T.numpy())
    torch.testing.assert_close(trained[order[0]], expected[order[1]])
    pairs = sorted((values[i - 1], values[i]) for i in steps)
    assert sorted(zip(viewed.tolist(), targets.tolist(), strict=True)) == pairs


@pytest.mark.parametrize("max_length", [2, 3, 4, 20])
def test_every_step_of_a_long_session_trains_once(max_length):
    model = made("sasrec", max_length=max_length)
    sessions = model.sessions(
        batch_of([[5, 6, 7, 8, 9, 10, 11, 12], [3], [], [20, 21], [22, 23, 24]])
    )
    windows = training_windows(sessions, max_length)
    assert int(windows.lengths.max()) <= max_length + 1
    targets = []
    for group in by_length(windows):
        for row in pad(sessions, group)["item_id"].tolist():
            present = [item for item in row if item]
            assert present == list(range(present[0], present[0] + len(present)))
            targets += present[1:]
    assert sorted(targets) == [6, 7, 8, 9, 10, 11, 12, 21, 23, 24]
    ends = [[8 + k for k in range(5 - min(max_length, 7), 5)]]
    assert pad(sessions, windows)["item_id"].tolist()[0][1 : max_length + 1][:7] == ends[0]


def test_auto_counts_items_without_the_reserved_codes():
    found = [SASRecSettings().loss_over(codes) for codes in (10_003, 10_004)]
    assert found == ["cross_entropy", "sampled_softmax"]


def test_repeats_and_unknown_items_do_not_train():
    inputs, _ = batch_of([[5, 5, 9, 2, 9, 7, 7], [1, 6, 8]])
    kept, _ = batch_of([[5, 9, 7], [6, 8]])
    model = made("sasrec")
    assert model.loss((inputs, None)).item() == pytest.approx(model.loss((kept, None)).item())
    model.observe((inputs, None))
    assert model.objective.counts.nonzero().squeeze(1).tolist() == [5, 6, 7, 8, 9]
    as_it_is = made("sasrec", drop_repeats=False)
    assert as_it_is.weighted_loss((inputs, None))[1] == 6
    assert as_it_is.weighted_loss((kept, None))[1] == 3


@pytest.mark.parametrize("fusion", ["concat", "sum", "gate"])
def test_side_features_join_the_item(fusion):
    model = made("gru4rec", side_features=SIDE, side_fusion=fusion)
    weights = weights_of(model)
    columns = {
        "item_id": torch.tensor([[5, 9]]),
        "category": torch.tensor([[4, 8]], dtype=torch.int32),
        "price": torch.tensor([[0.5, -2.0]]),
    }
    items = weights["items.inputs.item_id.weight"][[5, 9]]
    categories = weights["events.tables.category.weight"][[4, 8]]
    side = np.c_[categories, [0.5, -2.0]]
    joined = np.c_[items, side]
    if fusion == "concat":
        expected = linear(joined, weights, "events.project")
    else:
        expected = linear(side, weights, "events.project")
        if fusion == "gate":
            expected = expected / (1 + np.exp(-linear(joined, weights, "events.gate")))
        expected = expected + items
    with torch.no_grad():
        found = model.events(columns)[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_items_are_described_by_their_features(tied):
    """An item's vector is its own, its category's and its mean price times a direction; the highest
    category where training shows several, so that a known one goes before a missing one."""
    model = made("sasrec", item_features=SIDE, weight_tying=tied, similarity="dot")
    inputs, _ = batch_of([[5, 9, 5], [9, 7]])
    inputs["category__values"] = torch.tensor([4, 1, 4, 8, 3], dtype=torch.int32)
    inputs["price__values"] = torch.tensor([1.0, 2.0, 3.0, -1.0, 7.0])
    model.observe((inputs, None))
    weights = weights_of(model)
    category, price = np.zeros(ITEMS, int), np.zeros(ITEMS)
    category[[5, 9, 7]], price[[5, 9, 7]] = [4, 8, 3], [2.0, 0.5, 7.0]
    described = weights["items.features.category.weight"][category]
    described = described + np.outer(price, weights["items.directions.price"])
    inputs = weights["items.inputs.item_id.weight"] + described
    outputs = inputs if tied else weights["items.outputs.item_id.weight"] + described
    with torch.no_grad():
        found = model.items(torch.tensor([9, 20])).numpy(), model.items.candidates().numpy()
    np.testing.assert_allclose(found[0], inputs[[9, 20]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], outputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OURS)
def test_dropout_is_of_training_only(name):
    model = made(name, item_dropout=0.3)
    batch = batch_of(random_sessions(8))
    assert torch.equal(step_scores(model, batch), step_scores(model, batch))
    model.train()
    assert model.loss(batch).item() != model.loss(batch).item()


def test_every_process_counts_all_sessions(tmp_path):
    sessions = random_sessions(30, seed=5)
    write_sessions(tmp_path, sessions)
    schema = session_schema(*SIDE)
    counts = np.bincount([item for session in sessions for item in session], minlength=ITEMS)
    for rank in range(2):
        model = made("sasrec", item_features=["category"])
        train = Batches(tmp_path, schema, 4, columns=model.columns, rank=rank, world_size=2)
        observe(model, train)
        assert model.objective.counts.tolist() == counts.tolist()
        assert (train.rank, train.world_size, train.batch) == (rank, 2, 0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"item_features": ["brand"]}, r"item_features: .*'brand'.*found: category, price"),
        ({"side_features": ["price"], "item_features": ["price"]}, "price: name it in side_fe"),
        ({"loss": "gbce", "sampling_power": 0.5}, "loss gbce is defined for items drawn evenly"),
        ({"loss": "bpr_max", "label_smoothing": 0.1}, "label_smoothing: only for loss auto, cross"),
        ({"loss": "hinge"}, "loss: .*'cross_entropy'"),
        ({"max_length": 1}, "max_length: .*greater than or equal to 2"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, expected):
    with pytest.raises(UserError, match=expected):
        build("sasrec", session_schema(*SIDE), settings)
