"""The container files: what can be known of them without an engine."""

import re
import shlex

import pytest
from ruamel.yaml import YAML

from pipeline.__main__ import main
from tests.conftest import ROOT

DOCKERFILE = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
LINES = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE)).splitlines()
COMPOSE = YAML(typ="safe").load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))


def instructions(name):
    return [line.split(None, 1)[1] for line in LINES if line.startswith(f"{name} ")]


def ignored():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    return {line.strip("/") for line in lines}


def test_what_is_copied_is_there_and_not_ignored():
    here = [line for line in instructions("COPY") if "--from" not in line]
    sources = [name for line in here for name in shlex.split(line)[:-1] if name[:2] != "--"]
    assert "requirements" in sources and "." in sources
    for name in sources:
        assert (ROOT / name).exists(), name
        assert name not in ignored(), name
    assert {".venv", ".git", "data"} <= ignored()


def test_versions_are_pinned_and_nobody_is_root():
    (python,) = (line for line in instructions("ARG") if line.startswith("PYTHON="))
    assert re.fullmatch(r"PYTHON=3\.11\.\d+-slim-\w+", python)
    assert all(line.startswith("python:${PYTHON}") for line in instructions("FROM"))
    (user,) = instructions("USER")
    assert int(user) > 0 and any(f"--uid {user} merlin" in line for line in instructions("RUN"))
    last_user = max(i for i, line in enumerate(LINES) if line.startswith("USER"))
    assert not any("apt-get" in line for line in LINES[last_user:])


def test_the_image_is_set_up_by_the_projects_own_locks():
    (setup,) = (line for line in instructions("RUN") if "setup.sh" in line)
    assert "EXTRA=${EXTRA}" in setup
    for extra in ("cpu", "gpu"):
        lock = (ROOT / f"requirements/{extra}.lock").read_text(encoding="utf-8")
        pinned = re.findall(r"(?m)^\S+==\S+ \\\n +--hash=sha256:", lock)
        assert len(pinned) == len(re.findall(r"(?m)^[a-z]\S*", lock)) > 100
    assert "cudf-cu12==24.12." in lock and "dask-cuda==24.12." in lock


def test_services_share_a_volume_and_wait_for_the_scheduler():
    services = COMPOSE["services"]
    assert set(services) == {"scheduler", "worker", "job"}
    folders = {volume.split(":")[1] for s in services.values() for volume in s["volumes"]}
    assert folders == {"/home/merlin/project/data"}
    for name in ("worker", "job"):
        assert services[name]["depends_on"]["scheduler"]["condition"] == "service_healthy"


def test_every_command_of_the_job_is_one_of_the_command_line(capsys):
    script = COMPOSE["services"]["job"]["command"][-1].replace("\\\n", " ")
    commands = [shlex.split(line) for line in script.splitlines() if line.strip()]
    assert [command[1] for command in commands] == [
        "generate",
        "ingest",
        "preprocess",
        "train",
        "evaluate",
    ]
    for program, *arguments in commands:
        assert program == "merlin-pipeline"
        given = [argument.replace("$$RECIPE", "ranking") for argument in arguments]
        with pytest.raises(SystemExit) as ended:
            main([*given, "--help"])
        assert ended.value.code == 0
    assert "--set" in capsys.readouterr().out
