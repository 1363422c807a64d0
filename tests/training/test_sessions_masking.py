"""Which events are hidden, guessed and seen, by each training task, against its definition."""

import math

import pytest
import torch

from tests.training.session_examples import batch_of, random_sessions
from tests.training.session_models import small_model
from training.sessions.masking import training_task
from training.sessions.transformer_settings import XLNetSettings

LENGTHS = [1, 2, 5, 9, 9, 4]


def sequences(seed=0):
    """Codes of sequences of :data:`LENGTHS`, padded with 0, and the vectors of their events."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        codes[row, :length] = torch.randperm(30, generator=generator)[:length] + 3
    return codes, torch.randn(*codes.shape, 8, generator=generator)


def task(masking, share):
    shares = {"mlm_probability": share, "plm_probability": share}
    return training_task(XLNetSettings(masking=masking, d_model=8, heads=2, **shares))


@pytest.mark.parametrize("masking", ["mlm", "rtd", "plm"])
def test_the_last_event_is_always_guessed_and_the_first_of_several_never(masking):
    codes, vectors = sequences()
    guessing = task(masking, 0.4)
    chosen = 0
    for seed in range(60):
        torch.manual_seed(seed)
        guessing(vectors, codes, training=True)
        where = guessing.mask_schema
        for row, length in enumerate(LENGTHS):
            assert where[row, length - 1] and not where[row, length:].any()
            assert length == 1 or not where[row, 0]
            chosen += int(where[row, 1 : length - 1].sum())
    could = 60 * sum(max(length - 2, 0) for length in LENGTHS)
    assert abs(chosen / could - 0.4) < 4 * math.sqrt(0.24 / could)


@pytest.mark.parametrize("masking", ["mlm", "rtd"])
def test_hidden_events_become_the_mask_and_the_others_stay(masking):
    codes, vectors = sequences()
    guessing = task(masking, 0.4)
    given = guessing(vectors, codes, training=True)
    hidden = guessing.mask_schema
    assert torch.equal(given[~hidden], vectors[~hidden])
    mask = guessing.masked_item_embedding.expand(int(hidden.sum()), -1)
    assert torch.equal(given[hidden], mask)
    assert torch.equal(guessing.masked_targets, torch.where(hidden, codes, 0))
    for row, length in enumerate(LENGTHS):
        assert guessing.position_ids[row, :length].tolist() == list(range(length))[::-1]
    with guessing.nothing_hidden():
        assert torch.equal(guessing(vectors, codes, training=True), vectors)
    assert torch.equal(guessing.attention_mask, (codes != 0).float())


@pytest.mark.parametrize("masking", ["mlm", "rtd", "plm"])
def test_the_event_after_the_last_is_asked_for(masking):
    codes, vectors = sequences()
    guessing = task(masking, 0.4)
    given = guessing(vectors, codes)
    assert given.shape == (len(LENGTHS), max(LENGTHS) + 1, 8)
    for row, length in enumerate(LENGTHS):
        assert torch.equal(given[row, :length], vectors[row, :length])
        seen = guessing.attention_mask[row].nonzero().squeeze(1).tolist()
        if masking == "plm":
            assert seen == list(range(length))
            place = guessing.target_mapping[row, guessing.asked[row]]
            assert place.nonzero().tolist() == [[length]] and not guessing.perm_mask.any()
        else:
            assert seen == list(range(length + 1))
            assert guessing.position_ids[row, : length + 1].tolist() == seen[::-1]
            assert guessing.asked[row] == length
            assert torch.equal(given[row, length], guessing.masked_item_embedding)


def test_permuted_events_are_guessed_from_all_that_come_before_in_one_order():
    """There is an order of the guessed events, the last of the sequence last, in which each sees
    those that are not guessed and those before it."""
    codes, vectors = sequences()
    guessing = task("plm", 0.6)
    for seed in range(20):
        torch.manual_seed(seed)
        given = guessing(vectors, codes, training=True)
        assert torch.equal(given, vectors)
        for row, length in enumerate(LENGTHS):
            guessed = guessing.mask_schema[row].nonzero().squeeze(1).tolist()
            unseen = guessing.perm_mask[row, :length, :length].bool()
            order = sorted(guessed, key=lambda place: -int(unseen[place].sum()))
            assert order[-1] == length - 1
            for place in range(length):
                later = order[order.index(place) :] if place in guessed else order
                assert set(unseen[place].nonzero().squeeze(1).tolist()) == set(later)
            # One output a guess, and each says which event it is of.
            filled = guessing.masked_targets[row] != 0
            places = guessing.target_mapping[row][filled].nonzero()[:, 1]
            assert sorted(places.tolist()) == guessed
            assert torch.equal(guessing.masked_targets[row][filled], codes[row, places])


@pytest.mark.parametrize("masking", ["mlm", "plm"])
def test_the_item_before_is_named_only_where_it_is_seen(masking):
    codes, vectors = sequences()
    guessing = task(masking, 0.5)
    for seed in range(20):
        torch.manual_seed(seed)
        guessing(vectors, codes, training=True)
        where, wanted = guessing.mask_schema, guessing.masked_targets != 0
        for row, length in enumerate(LENGTHS):
            for output in wanted[row].nonzero().squeeze(1).tolist():
                place = codes[row].tolist().index(int(guessing.masked_targets[row, output]))
                named = int(guessing.viewed[row, output])
                if place == 0:
                    assert named == 0
                elif not where[row, place - 1] or (masking == "plm" and place == length - 1):
                    assert named == codes[row, place - 1]
                else:
                    assert named == 0


@pytest.mark.parametrize("name", ["xlnet", "bert4rec", "electra", "albert"])
def test_replacement_adds_the_loss_of_telling_replaced_events(name):
    batch = batch_of(random_sessions(30))

    def loss(masking, weight=0.0, logit=0.0):
        settings = {"mlm_probability": 0.3, "rtd_weight": weight}
        model = small_model(name, masking=masking, **settings).eval()
        if masking == "rtd":
            torch.nn.init.zeros_(model.replaced.weight)
            torch.nn.init.constant_(model.replaced.bias, logit)
        torch.manual_seed(3)
        with torch.no_grad():
            return model.loss(batch).item()

    # The networks start alike, whatever the task, but for what their judge draws.
    alone = loss("rtd")
    assert loss("rtd", weight=1.0) - alone == pytest.approx(math.log(2), abs=1e-5)
    assert loss("rtd", weight=3.0) - alone == pytest.approx(3 * math.log(2), abs=1e-5)
    # Where the judge says "replaced" of all, with certainty 40, each true event costs 40.
    true = (loss("rtd", weight=1.0, logit=40.0) - alone) / 40
    false = (loss("rtd", weight=1.0, logit=-40.0) - alone) / 40
    assert true + false == pytest.approx(1, abs=1e-4)
    assert 0.2 < false < 0.6
