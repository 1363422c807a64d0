"""The generate stage: whole folders or none."""

import pytest

from core.errors import UserError
from pipeline.stages.generate import generate
from pipeline.synthetic.criteo import CriteoGenerateSettings
from pipeline.synthetic.sessions import SessionsGenerateSettings


def test_generate_replaces_the_folder(tmp_path):
    output = tmp_path / "data" / "generated"
    generate("ranking", CriteoGenerateSettings(rows=500, days=3), output)
    manifest = generate("ranking", CriteoGenerateSettings(rows=500, days=2), output)
    assert sorted(path.name for path in output.glob("[!.]*")) == [
        "log",
        "manifest.json",
        "truth.parquet",
    ]
    assert sorted(path.name for path in (output / "log").iterdir()) == ["day_0", "day_1"]
    assert manifest["rows"] == 500


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    output = tmp_path / "generated"
    settings = SessionsGenerateSettings(sessions=50, items=50, users=40, days=1)
    generate("sessions", settings, output)
    before = (output / "manifest.json").read_bytes()

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("pipeline.synthetic.sessions.write_json", full)
    with pytest.raises(OSError):
        generate("sessions", settings, output)
    assert (output / "manifest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["generated"]


def test_wrong_kind_or_settings(tmp_path):
    with pytest.raises(UserError, match="expected one of ranking"):
        generate("click", CriteoGenerateSettings(), tmp_path / "x")
    with pytest.raises(UserError, match="expected CriteoGenerateSettings"):
        generate("ranking", SessionsGenerateSettings(), tmp_path / "x")
