import pytest

from tests.golden import curves


@pytest.mark.parametrize("name", curves.names())
def test_the_curve_is_the_golden_one(name, tmp_path):
    assert curves.difference(name, curves.losses(name, tmp_path)) == ""


# One epoch of this log is 20 steps. DLRM learns slowly, and which rows are in its first and last
# five decides which losses are lower: the first at seed 1, the last at 19 of the seeds 1 to 20.
@pytest.mark.parametrize(("name", "epochs"), [("dlrm", 3), ("deepfm", 1), ("xlnet", 1)])
def test_two_runs_have_one_curve(name, epochs, tmp_path):
    first, second = (curves.losses(name, tmp_path / part, epochs) for part in "ab")
    assert first == second and len(first) == epochs * curves.STEPS
    assert sum(first[-5:]) < sum(first[:5])


@pytest.mark.parametrize("name", ["dlrm", "deepfm", "xlnet"])
def test_the_loss_of_all_rows_falls(name, tmp_path):
    losses = curves.losses(name, tmp_path / "log", epochs=3)
    assert sum(losses[-curves.STEPS :]) < sum(losses[: curves.STEPS])


def test_a_curve_that_leaves_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(curves, "FOLDER", tmp_path)
    assert "--write dlrm" in curves.difference("dlrm", [1.0])
    curves.write_json(curves.file_of("dlrm"), {"model": "dlrm", "losses": [1.0, 0.5]})
    assert curves.difference("dlrm", [1.0, 0.500004]) == ""
    assert curves.difference("dlrm", [1.0, 0.50001]) == (
        "step 2: loss 0.50001000, 0.50000000 expected"
    )
    assert curves.difference("dlrm", [1.0]) == "1 losses, 2 expected"
