import pytest

from tests.golden import curves


@pytest.mark.parametrize("name", curves.names())
def test_the_curve_is_the_golden_one(name, tmp_path):
    assert curves.difference(name, curves.losses(name, tmp_path)) == ""


@pytest.mark.parametrize("name", ["deepfm", "xlnet"])
def test_two_runs_have_one_curve(name, tmp_path):
    first, second = (curves.losses(name, tmp_path / part) for part in "ab")
    assert first == second and len(first) == curves.STEPS
    assert sum(first[-5:]) < sum(first[:5])


def test_a_curve_that_leaves_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(curves, "FOLDER", tmp_path)
    assert "--write dlrm" in curves.difference("dlrm", [1.0])
    curves.write_json(curves.file_of("dlrm"), {"model": "dlrm", "losses": [1.0, 0.5]})
    assert curves.difference("dlrm", [1.0, 0.500004]) == ""
    assert curves.difference("dlrm", [1.0, 0.50001]) == (
        "step 2: loss 0.50001000, 0.50000000 expected"
    )
    assert curves.difference("dlrm", [1.0]) == "1 losses, 2 expected"
