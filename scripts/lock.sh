#!/bin/sh
# Writes requirements/cpu.lock and requirements/gpu.lock anew from pyproject.toml: every package at
# one version, by hash. `scripts/lock.sh gpu` writes one of them only.
#
# torch's CPU and CUDA builds are different files of one version: cpu.lock names the version
# without the build and holds the hashes of the package index's files and of the CPU build's.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# compile EXTRA OUTPUT: the versions that OUTPUT names are kept where they still fit. pyproject's
# overrides count where they name no extra, or this one: uv itself leaves out those that name one.
compile() {
    .venv/bin/python - "$1" > "$work/overrides" <<'PYTHON'
import sys, tomllib
overrides = tomllib.load(open("pyproject.toml", "rb"))["tool"]["uv"]["override-dependencies"]
for line in overrides:
    requirement, _, marker = line.partition(";")
    print(requirement if sys.argv[1] in marker else line)
PYTHON
    .venv/bin/uv --no-config pip compile pyproject.toml --extra "$1" --extra test \
        --python-version 3.11 --override "$work/overrides" \
        --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
        --quiet -o "$2" > /dev/null
}
torch_hashes() { awk '/^[a-zA-Z]/ {torch = /^torch==/} torch && /--hash/ {print $1}' "$1"; }

lock_cpu() {
    lock=requirements/cpu.lock
    # torch is named by its CPU build, else the CUDA one would be kept.
    sed "s/^torch==\([0-9.]*\)/torch==\1+cpu/" "$lock" > "$work/cpu"
    if [ -n "${PIP_FIND_LINKS:-}" ]; then
        UV_FIND_LINKS="$PIP_FIND_LINKS" compile cpu "$work/cpu"
    else
        UV_TORCH_BACKEND=cpu compile cpu "$work/cpu"
    fi
    awk '/^[a-zA-Z]/ {torch = /^torch==/} !torch' "$work/cpu" > "$work/index"
    compile cpu "$work/index"
    hashes=$({ torch_hashes "$work/cpu"; torch_hashes "$work/index"; } | sort -u |
        sed 's/.*/    & \\/' | sed '$ s/ \\$//')
    HASHES="$hashes" awk '/^[a-zA-Z]/ {torch = /^torch==/}
        torch && /--hash/ {next}
        torch {sub(/\+[^ ]*/, ""); print; print ENVIRON["HASHES"]; next}
        {print}' "$work/cpu" > "$lock"
}

# torch, TorchRec and fbgemm-gpu in the package index's own builds, which are those for CUDA.
lock_gpu() { compile gpu requirements/gpu.lock; }

for extra in ${*:-cpu gpu}; do "lock_$extra"; done
