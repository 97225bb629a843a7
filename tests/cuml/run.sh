#!/usr/bin/env bash
# Install the real cuML into an environment of its own (4.6 GB, no GPU needed) and bind every
# call of the backend to its signatures. PYTHON and VENV_CUML may be given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
venv=${VENV_CUML:-.venv-cuml}
if [[ ! -e $venv/.ready ]]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet "cuml-cu13==26.10.0" torch psutil "pytest>=8.3" \
        "pytest-timeout>=2.3" scikit-learn umap-learn "webdataset<2" platformdirs fsspec tyro filelock rich
    touch "$venv/.ready"
fi
exec "$venv/bin/python" -m pytest -q -p no:cacheprovider tests/cuml "$@"
