"""Metrics and the plots that belong to them change together, or not at all."""

import pytest

from core import metrics_output, outputs
from core.artifacts import read_json, write_json
from core.errors import UserError
from core.kinds import PLOTS
from core.metrics_output import claimed_metrics


def publish(file, plots, value):
    with claimed_metrics(file, plots, PLOTS, [], ["rows"]) as claim:
        claim.publish({"rows": value}, lambda folder: write_json(folder / "roc.json", [value]))


def state(file, plots):
    return (
        read_json(file)["rows"] if file.exists() else None,
        read_json(plots / "roc.json")[0] if plots.exists() else None,
    )


@pytest.mark.parametrize("inside", [False, True])
def test_both_are_replaced(tmp_path, inside):
    plots = tmp_path / "plots"
    file = (plots if inside else tmp_path) / "m.json"
    for value in (1, 2):
        publish(file, plots, value)
        assert state(file, plots) == (value, value)
    assert {path.name for path in tmp_path.iterdir()} <= {"plots", "m.json"}


def test_a_refusal_or_a_full_disk_at_the_last_moment_costs_nothing(tmp_path, monkeypatch):
    file, plots = tmp_path / "m.json", tmp_path / "plots"
    publish(file, plots, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    for module, name in ((metrics_output, "json_text"), (outputs.Marker, "write")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, full)
            with pytest.raises(OSError):
                publish(file, plots, 2)
        assert state(file, plots) == (1, 1)
    with (
        pytest.raises(UserError, match="holds mine"),
        claimed_metrics(file, plots, PLOTS, [], ["rows"]) as claim,
    ):
        (plots / "mine").write_text("precious")
        claim.publish({"rows": 2}, lambda folder: write_json(folder / "roc.json", [2]))
    assert state(file, plots) == (1, 1) and (plots / "mine").exists()
    (plots / "mine").unlink()
    with (
        pytest.raises(UserError, match="something else than this command writes"),
        claimed_metrics(file, plots, PLOTS, [], ["rows"]) as claim,
    ):
        file.write_text("precious")
        claim.publish({"rows": 2}, lambda folder: write_json(folder / "roc.json", [2]))
    assert file.read_text() == "precious" and read_json(plots / "roc.json") == [1]


def test_killed_between_the_two_no_metrics_are_beside_plots_of_another_run(tmp_path, monkeypatch):
    file, plots = tmp_path / "m.json", tmp_path / "plots"
    real = outputs.exchange

    def dies_before(*_):
        raise KeyboardInterrupt

    def dies_after(*folders):
        real(*folders)
        raise KeyboardInterrupt

    for exchange, expected in ((dies_before, (None, 1)), (dies_after, (None, 2))):
        publish(file, plots, 1)
        with monkeypatch.context() as patched:
            patched.setattr(outputs, "exchange", exchange)
            with pytest.raises(KeyboardInterrupt):
                publish(file, plots, 2)
        assert state(file, plots) == expected
    publish(file, plots, 3)
    assert state(file, plots) == (3, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"plots", "m.json"}
