# make repro   sets everything up, runs both recipes end to end, prints what was learned
# make test    sets everything up, runs the tests
# make install-gpu   sets .venv up for NVIDIA GPUs (cuDF, Dask-CUDA, CUDA builds); the others then use it
# RECIPE=recipes/NAME.yaml puts that recipe into params.yaml first, SOURCE=PATH the log that it is
# for. scripts/setup.sh says what TORCH_BACKEND and PYTHON do.
SHELL := /bin/sh
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Where Python may not keep compiled files, every stage would start seconds later.
unexport PYTHONDONTWRITEBYTECODE
RECIPE ?=
SOURCE ?=

.PHONY: setup install-gpu repro test lint lock clean

setup:
	@scripts/setup.sh

install-gpu:
	@EXTRA=gpu scripts/setup.sh

repro: setup
	@SOURCE="$(SOURCE)" scripts/repro.sh $(RECIPE)

test: setup
	@python -m pytest -q -n 2 --dist loadfile

lint: setup
	@ruff check . && ruff format --check .

lock: setup
	@scripts/lock.sh

clean:
	rm -rf data metrics plots
