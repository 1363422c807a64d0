#!/bin/sh
# Writes requirements/cpu.lock anew from pyproject.toml: every package at one version, by hash.
#
# torch's CPU and CUDA builds are different files of one version: the lock names the version
# without the build and holds the hashes of the package index's files and of the CPU build's.
set -eu
cd "$(dirname "$0")/.."
lock=requirements/cpu.lock
compile() {
    .venv/bin/uv pip compile pyproject.toml --extra cpu --extra test --python-version 3.11 \
        --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
        --quiet -o "$1" > /dev/null
}
torch_hashes() { awk '/^[a-zA-Z]/ {torch = /^torch==/} torch && /--hash/ {print $1}' "$1"; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Versions that still fit are kept; torch is named by its CPU build, else the CUDA one would be kept.
sed "s/^torch==\([0-9.]*\)/torch==\1+cpu/" "$lock" > "$work/cpu"
if [ -n "${PIP_FIND_LINKS:-}" ]; then
    UV_FIND_LINKS="$PIP_FIND_LINKS" compile "$work/cpu"
else
    UV_TORCH_BACKEND=cpu compile "$work/cpu"
fi
awk '/^[a-zA-Z]/ {torch = /^torch==/} !torch' "$work/cpu" > "$work/index"
compile "$work/index"
hashes=$({ torch_hashes "$work/cpu"; torch_hashes "$work/index"; } | sort -u |
    sed 's/.*/    & \\/' | sed '$ s/ \\$//')
HASHES="$hashes" awk '/^[a-zA-Z]/ {torch = /^torch==/}
    torch && /--hash/ {next}
    torch {sub(/\+[^ ]*/, ""); print; print ENVIRON["HASHES"]; next}
    {print}' "$work/cpu" > "$lock"
