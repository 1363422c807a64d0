"""The GPU benchmark runs without one; a part that fails or hangs does not stop the others."""

import json

import pytest

from benchmarks import gpu, gpu_parts


def run(tmp_path, capsys, *arguments):
    output = tmp_path / "found.json"
    code = gpu.main(["--device", "cpu", "--rows", "small", "--json", str(output), *arguments])
    return code, json.loads(output.read_text()), capsys.readouterr().out


def test_a_part_that_fails_is_told_and_the_others_go_on(tmp_path, capsys):
    # No file can be made below a file: the first part's folder.
    work = tmp_path / "work"
    work.mkdir()
    (work / "features").write_text("")
    arguments = ["--work", str(work), "--only", "features", "loader"]
    code, found, told = run(tmp_path, capsys, *arguments)
    assert code == 1
    assert found["parts"]["features"]["fault"].startswith("ended with code 1")
    assert found["parts"]["loader"]["rows/s"] == max(found["parts"]["loader"]["rounds"]) > 0
    assert found["machine"]["device"] == "cpu" and "ended with code 1" in told


def test_a_part_that_takes_too_long_is_ended(tmp_path, capsys):
    options = {"device": "cpu", "rows": "small", "work": str(tmp_path)}
    found = gpu.measure("sessions", options, 0.1)
    assert found["fault"].startswith("took more than")
    code, found, _ = run(tmp_path, capsys, "--only", "sessions", "--seconds", "1")
    assert code == 1 and found["parts"]["sessions"]["fault"] == "no time was left"


def test_the_times_of_all_parts_stay_within_eight_minutes():
    assert gpu.SECONDS.keys() == gpu_parts.PARTS.keys()
    assert {part for part, _ in gpu.GOALS} <= gpu_parts.PARTS.keys()
    with pytest.raises(SystemExit):
        gpu.main(["--only", "nothing"])


def test_the_nets_are_dlrms_own():
    for name, dim in (("kaggle", 16), ("1tb", 64)):
        assert len(gpu_parts.NETS[name]["tables"]) == 26
        assert gpu_parts.NETS[name]["net"]["embedding_dim"] == dim
    assert sum(gpu_parts.KAGGLE_TABLES) == pytest.approx(33.8e6, rel=0.01)
    assert max(gpu_parts.TERABYTE_TABLES) < 10_000_000


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rows/s", 5_300_000.4, "5,300,000"),
        ("GPU busy", 0.914, "91%"),
        ("peak GPU bytes", 3 * 2**30, "3.0 GiB"),
        ("fault", "ended", "ended"),
    ],
)
def test_figures_are_readable(name, value, expected):
    assert gpu.shown(name, value) == expected
