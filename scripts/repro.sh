#!/bin/sh
# Runs the DVC pipeline and prints the table; with a recipe file, puts it into params.yaml first, and
# SOURCE, if it is set, as the log that it is for.
set -eu
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
for recipe in "$@"; do merlin-pipeline use "$recipe" ${SOURCE:+--source "$SOURCE"}; done
# In a source archive there is no .git, and DVC has to be told so.
if [ -e .git ]; then
    dvc config -q --local --unset core.no_scm 2>/dev/null || true
else
    dvc config -q --local core.no_scm true
fi
dvc repro
merlin-pipeline report
