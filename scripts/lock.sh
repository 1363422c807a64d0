#!/bin/sh
# Writes requirements/cpu.lock anew from pyproject.toml: every package at one version, by hash.
# torch stands without a hash, since its CPU and CUDA builds are different files of one version.
set -eu
cd "$(dirname "$0")/.."
if [ -n "${PIP_FIND_LINKS:-}" ]; then
    export UV_FIND_LINKS="$PIP_FIND_LINKS"
else
    export UV_TORCH_BACKEND="${TORCH_BACKEND:-cpu}"
fi
lock=requirements/cpu.lock
.venv/bin/uv pip compile pyproject.toml --extra cpu --extra test --python-version 3.11 \
    --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
    --quiet "$@" -o "$lock" > /dev/null
awk '/^[a-zA-Z]/ {torch = /^torch==/} torch && /^ / {next}
     torch {sub(/\+[^ ]*/, ""); sub(/ \\$/, "")} {print}' "$lock" > "$lock.new"
mv "$lock.new" "$lock"
