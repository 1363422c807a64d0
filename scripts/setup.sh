#!/bin/sh
# Sets up .venv with exactly what requirements/cpu.lock names; does nothing when that is done.
#
#   EXTRA           gpu: what requirements/gpu.lock names, with cuDF and CUDA builds of torch and
#                   FBGEMM. Empty: what .venv has already, cpu where there is none.
#   TORCH_BACKEND   which build of torch cpu.lock is installed with: cpu (the default), cu126, …
#                   Where pip is told of a folder of wheels (PIP_FIND_LINKS or pip's own settings),
#                   the build that lies there is taken and this setting is not needed.
#   PYTHON          the Python 3.11 to use, where it is not found as python3.11 or python3.
set -eu
cd "$(dirname "$0")/.."
UV_VERSION=0.13.8
STAMP=.venv/.installed
EXTRA="${EXTRA:-$(sed -n 's/.* extra=//p' "$STAMP" 2>/dev/null || true)}"
EXTRA="${EXTRA:-cpu}"
LOCK="requirements/$EXTRA.lock"

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
is_311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

[ -f "$LOCK" ] || fail "EXTRA=$EXTRA: expected cpu or gpu"
wanted="$(cat "$LOCK" pyproject.toml scripts/setup.sh | cksum) ${TORCH_BACKEND:-cpu} extra=$EXTRA"
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$wanted" ]; then exit 0; fi
rm -f "$STAMP"

# 1. A Python 3.11 in .venv. Where the machine has another, uv brings it (into .venv as well).
if ! is_311 .venv/bin/python; then
    python=""
    for candidate in ${PYTHON:-} python3.11 python3 python; do
        if command -v "$candidate" >/dev/null 2>&1 && is_311 "$candidate"; then
            python="$candidate"; break
        fi
    done
    echo "setup: making .venv"
    if [ -n "$python" ]; then
        "$python" -m venv --clear .venv || fail "'$python -m venv' failed; on Debian or Ubuntu:" \
            "apt-get install python3.11-venv, then again"
    else
        uv=$(command -v uv || true)
        if [ -z "$uv" ]; then
            command -v python3 >/dev/null 2>&1 || fail "no Python here. Install Python 3.11 (with" \
                "venv), or uv, which brings its own, then again"
            rm -rf .venv
            python3 -m venv .venv/bootstrap && .venv/bootstrap/bin/python -m pip install -q \
                "uv==$UV_VERSION" || fail "this machine's python3 is not 3.11, and uv, which would" \
                "bring 3.11, could not be installed. Install Python 3.11 or uv, then again"
            uv=.venv/bootstrap/bin/uv
        fi
        UV_PYTHON_INSTALL_DIR="$PWD/.venv/python" "$uv" venv -q --allow-existing --seed \
            --python 3.11 .venv || fail "uv could not bring Python 3.11 (no network?)." \
            "Install Python 3.11, or set PYTHON to one, then again"
    fi
fi
.venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip -q

# 2. uv, and what pip is configured to use: uv does not read pip's settings.
if ! .venv/bin/uv --version 2>/dev/null | grep -q " $UV_VERSION "; then
    .venv/bin/python -m pip install -q --disable-pip-version-check "uv==$UV_VERSION" 2>/dev/null ||
        fail "pip could not install uv; is there a network? (.venv/bin/pip install uv==$UV_VERSION)"
fi
pip_setting() { .venv/bin/python -m pip config get "global.$1" 2>/dev/null || true; }
links="${PIP_FIND_LINKS:-$(pip_setting find-links)}"
index="${PIP_INDEX_URL:-$(pip_setting index-url)}"
cert="${PIP_CERT:-$(pip_setting cert)}"
if [ -n "$links" ]; then UV_FIND_LINKS="${UV_FIND_LINKS:-$(echo "$links" | tr ' \n' ',,')}"; export UV_FIND_LINKS; fi
if [ -n "$index" ]; then UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"; export UV_DEFAULT_INDEX; fi
if [ -n "$cert" ]; then SSL_CERT_FILE="${SSL_CERT_FILE:-$cert}"; export SSL_CERT_FILE; fi
# Nothing outside .venv, and hard links from the cache instead of copies.
export UV_CACHE_DIR="${UV_CACHE_DIR:-$PWD/.venv/uv-cache}"
export VIRTUAL_ENV="$PWD/.venv"

# 3. torch first, in the build that was asked for (gpu.lock names its own); then the rest, by hash.
#    --no-deps, since the lock is complete and Merlin's own metadata contradicts it.
version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' "$LOCK")
size=2; [ "$EXTRA" = cpu ] || size=7
echo "setup: installing the packages of $LOCK into .venv (about $size GB on disk)"
local_torch=$(echo "$links" | tr ' ,' '\n\n' | while read -r folder; do
    ls "$folder"/torch-"$version"*cp311* 2>/dev/null || true; done | head -n 1)
if [ "$EXTRA" = gpu ]; then
    unset UV_FIND_LINKS  # A CPU build of torch that lies there would be taken for the CUDA one.
    # Both bring the package fbgemm_gpu.
    .venv/bin/uv pip uninstall -q fbgemm-gpu-cpu 2>/dev/null || true
elif [ -n "$local_torch" ] && [ -z "${TORCH_BACKEND:-}" ]; then
    .venv/bin/uv pip install -q --no-deps "torch==$version"
elif [ "${TORCH_BACKEND:-cpu}" = cpu ]; then
    .venv/bin/uv pip install -q --no-deps --torch-backend cpu "torch==$version"
else
    .venv/bin/uv pip install -q --torch-backend "$TORCH_BACKEND" "torch==$version"
fi
# uv would leave out of gpu.lock what pyproject's overrides name for an extra; hence --no-config.
config=""; [ "$EXTRA" = cpu ] || config=--no-config
.venv/bin/uv $config pip install -q --no-deps -r "$LOCK"
.venv/bin/uv pip install -q --no-deps -e .

# 4. One import of everything: shows that it works, and compiles what will be imported.
echo "setup: first import (compiles Python files once)"
env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -m core.merlin
printf '%s\n' "$wanted" > "$STAMP"
