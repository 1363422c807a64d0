"""Every session model: no leak, saved and loaded whole, faults named; and XLNet learns."""

import subprocess
import sys

import pytest
import torch

from core.errors import UserError
from core.merlin import Schema
from core.settings import validate
from core.tensors import read_tensors, write_tensors
from tests.training.session_examples import ITEMS, batch_of, random_sessions, session_schema
from training.sessions import MODELS, build
from training.sessions.evaluation import evaluate_sessions
from training.sessions.ragged import every_step, pad, windows_before, windows_through
from training.sessions.xlnet import XLNetSettings

SIDE = ("category", "price")
SMALL = {"xlnet": {"d_model": 16, "heads": 2, "max_length": 6, "side_dim": 4}, "popular": {}}


def small_model(name, *side, **settings):
    torch.manual_seed(0)
    model = build(name, session_schema(*side), {**SMALL[name], **settings})
    if not model.learns_by_gradient:
        model.observe(batch_of(random_sessions(40)))
    return model


def step_scores(model, batch):
    """Scores at every step of the batch, ``(steps, num_items)``."""
    sessions = model.sessions(batch)
    windows = windows_before(sessions, every_step(sessions), model.max_length)
    with torch.no_grad():
        return model.eval().scores(pad(sessions, windows))


def training_logits(model, columns):
    """What the head makes of the hidden events of ``columns``, ``(events, num_items)``."""
    return model._predict_hidden(*model._encode(columns))["predictions"][model.task.task_name]


@pytest.mark.parametrize("side", [(), SIDE], ids=["ids", "side features"])
@pytest.mark.parametrize("name", MODELS)
def test_what_comes_later_never_changes_the_scores(name, side):
    model = small_model(name, *side)
    session = [5, 9, 7, 12, 6, 8, 10]
    batch = batch_of([session])
    before = step_scores(model, batch)
    for step in range(1, len(session)):
        inputs, _ = batch_of([session])
        # The answer and all that follows it become something else, in every column.
        inputs["item_id__values"][step:] = torch.randint(13, ITEMS, (len(session) - step,)).int()
        inputs["category__values"][step:] = 11 - inputs["category__values"][step:]
        inputs["price__values"][step:] += 3.0
        after = step_scores(model, (inputs, None))
        assert torch.equal(after[:step], before[:step])


@pytest.mark.parametrize("side", [(), SIDE], ids=["ids", "side features"])
def test_xlnet_trains_without_seeing_the_target(side):
    """The hidden state from which a training target is predicted does not depend on it."""
    model = small_model("xlnet", *side, mlm_probability=0.0).eval()

    def logits(inputs):
        sessions = model.sessions((inputs, None))
        columns = pad(sessions, windows_through(sessions, every_step(sessions)[-1:], 7))
        return training_logits(model, columns)

    inputs, _ = batch_of([[5, 9, 7, 12]])
    changed, _ = batch_of([[5, 9, 7, 20]])
    changed["category__values"][-1] = 11 - changed["category__values"][-1]
    changed["price__values"][-1] += 3.0
    assert torch.equal(logits(inputs), logits(changed))


def test_training_and_scoring_see_the_same():
    """With nothing but the last event hidden, training logits are the scores of the prefix."""
    model = small_model("xlnet", *SIDE, mlm_probability=0.0).eval()
    batch = batch_of([[5, 9, 7, 12], [4, 6]])
    sessions = model.sessions(batch)
    columns = pad(sessions, windows_through(sessions, every_step(sessions), 7))
    with torch.no_grad():
        trained = training_logits(model, columns)
    torch.testing.assert_close(trained, step_scores(model, batch))


def test_padding_changes_nothing():
    model = small_model("xlnet", *SIDE).eval()
    sessions = model.sessions(batch_of([[5, 9, 7]]))
    windows = windows_before(sessions, every_step(sessions), model.max_length)
    with torch.no_grad():
        narrow, wide = (model.scores(pad(sessions, windows, width)) for width in (2, 6))
    torch.testing.assert_close(narrow, wide)


@pytest.mark.parametrize("name", ["clm", "causal"])
def test_xlnet_refuses_causal_masking(name):
    with pytest.raises(UserError, match="sees the answer"):
        build("xlnet", session_schema(), {"masking": name})


@pytest.mark.parametrize("name", MODELS)
def test_weights_survive_saving(name, tmp_path):
    model = small_model(name, *SIDE)
    batch = batch_of(random_sessions(6))
    write_tensors(tmp_path / "model.safetensors", model.state_dict())
    torch.manual_seed(99)
    again = build(name, session_schema(*SIDE), model.settings)
    again.load_state_dict(read_tensors(tmp_path / "model.safetensors")[0])
    assert torch.equal(step_scores(again, batch), step_scores(model, batch))


def test_xlnet_ties_input_and_output():
    model = small_model("xlnet")
    tables = [p for p in model.parameters() if p.shape[0] == ITEMS]
    assert len(tables) == 1


def test_xlnet_learns_a_cycle():
    """Item i is always followed by i + 1: soon known, with 6 epochs over 300 sessions."""
    model = small_model("xlnet", dropout=0.0)
    generator = torch.Generator().manual_seed(1)
    starts = torch.randint(0, 30, (300,), generator=generator).tolist()
    sessions = [[(start + step) % 30 + 3 for step in range(4)] for start in starts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for epoch in range(6):
        for first in range(0, 300, 50):
            loss = model.loss(batch_of(sessions[first : first + 50], epoch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    metrics = evaluate_sessions(model, [batch_of(sessions[:50])])
    assert metrics["recall@10"] > 0.95
    assert model.training


def test_a_batch_without_targets_has_a_loss_of_zero():
    model = small_model("xlnet")
    loss = model.loss(batch_of([[5], [6, 2], []]))
    loss.backward()
    assert loss.item() == 0


def test_popular_counts():
    model = build("popular", session_schema())
    model.observe(batch_of([[3, 4, 3], [5, 3]]))
    scores = step_scores(model, batch_of([[4, 5]]))
    assert scores[0, 3:7].tolist() == [3, 1, 1, 0]


def test_unknown_names_are_told():
    with pytest.raises(UserError, match="unknown model 'xlnett'; known: xlnet, popular"):
        build("xlnett", session_schema())
    with pytest.raises(UserError, match=r"side_features: .*'brand'.*found: category, price"):
        build("xlnet", session_schema(*SIDE), {"side_features": ["brand"]})
    with pytest.raises(UserError, match="d_model must be even and a multiple of heads"):
        validate(XLNetSettings, {"d_model": 30, "heads": 4}, "params.yaml")


def test_a_schema_without_an_item_is_told():
    with pytest.raises(UserError, match="one column tagged ITEM_ID"):
        build("xlnet", Schema([session_schema("price")["price"]]))
    with pytest.raises(UserError, match="the vocabulary of 'item_id' is empty"):
        build("xlnet", session_schema(items=3))


def test_nothing_is_printed():
    code = (
        "from training.sessions import build\n"
        "from tests.training.session_examples import *\n"
        "model = build('xlnet', session_schema('category', 'price'))\n"
        "model.loss(batch_of(random_sessions(4))).backward()\n"
        "from training.sessions.evaluation import evaluate_sessions\n"
        "evaluate_sessions(model, [batch_of(random_sessions(4))])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
