"""Every session model: saved and loaded whole, side features read, faults named; and they learn."""

import subprocess
import sys

import pytest
import torch

from core.errors import UserError
from core.merlin import Schema
from core.tensors import read_tensors, write_tensors
from tests.training.session_examples import ITEMS, batch_of, random_sessions, session_schema
from tests.training.session_models import (
    CASES,
    LEARNING,
    SIDE,
    small_model,
    step_scores,
)
from training.sessions import MODELS, build
from training.sessions.evaluation import evaluate_sessions


@pytest.mark.parametrize("fusion", ["concat", "sum", "gate"])
@pytest.mark.parametrize("name", LEARNING)
def test_side_features_are_read_and_learned(name, fusion):
    """Each of them changes the scores, and each of their weights gets a gradient."""
    model = small_model(name, *SIDE, side_fusion=fusion)
    batch = batch_of([[5, 9, 7]])
    before = step_scores(model, batch)
    for side in SIDE:
        inputs, _ = batch_of([[5, 9, 7]])
        inputs[f"{side}__values"][:1] += 1
        assert not torch.equal(step_scores(model, (inputs, None)), before)
    model.train().loss(batch_of(random_sessions(20))).backward()
    for key, weight in model.events.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", MODELS)
def test_weights_survive_saving(name, tmp_path):
    model = small_model(name, *SIDE)
    batch = batch_of(random_sessions(6))
    write_tensors(tmp_path / "model.safetensors", model.state_dict())
    torch.manual_seed(99)
    again = build(name, session_schema(*SIDE), model.settings)
    again.load_state_dict(read_tensors(tmp_path / "model.safetensors")[0])
    assert torch.equal(step_scores(again, batch), step_scores(model, batch))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", LEARNING)
def test_input_and_output_share_a_table_or_not(name, tied):
    model = small_model(name, weight_tying=tied)
    assert len([p for p in model.parameters() if p.shape[0] == ITEMS]) == (1 if tied else 2)


@pytest.mark.parametrize(("name", "masking"), [case for case in CASES if case[1]])
def test_a_cycle_is_learned(name, masking):
    """Item i is always followed by i + 1: soon mostly known."""
    model = small_model(name, masking=masking, dropout=0.0, layers=1)
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
    assert metrics["recall@10"] > 0.6  # Chance is a third.
    assert model.training


@pytest.mark.parametrize(("name", "masking"), [case for case in CASES if case[0] in LEARNING])
def test_a_batch_without_targets_has_a_loss_of_zero(name, masking):
    model = small_model(name, masking=masking)
    loss = model.loss(batch_of([[5], [6, 2], []]))
    loss.backward()
    assert loss.item() == 0


def test_popular_counts():
    model = build("popular", session_schema())
    model.observe(batch_of([[3, 4, 3], [5, 3]]))
    scores = step_scores(model, batch_of([[4, 5]]))
    assert scores[0, 3:7].tolist() == [3, 1, 1, 0]


def test_unknown_names_are_told():
    with pytest.raises(UserError, match="unknown model 'xlnett'; known: xlnet, "):
        build("xlnett", session_schema())


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
