#!/bin/sh
# Install the project here with its pinned set: install.sh PYTHON [EXTRAS]
# The Dockerfile's one step; launch/container/check.sh runs it in a clean virtual environment.
set -eu
python=$1 extras=${2:+[$2]}
"$python" -m pip install --constraint constraints.txt ".$extras"
"$python" -m pip check
"$python" -m launch.cli --version
