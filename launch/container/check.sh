#!/bin/bash
# Run the Dockerfile's steps without a container engine: the files it copies, nothing else, in a
# clean virtual environment; then train there. Takes minutes and gigabytes: not in make test.
#   launch/container/check.sh [EXTRAS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/opt" "$folder/work"
while read -ra words; do
    target=$folder/opt/${words[-1]}
    cp -r "${words[@]:1:${#words[@]}-2}" "$target"
done < <(grep '^COPY' launch/container/Dockerfile)
python3 -m venv "$folder/venv"
(cd "$folder/opt" && launch/container/install.sh "$folder/venv/bin/python" "${1:-}")
cd "$folder/work"
PATH=$folder/venv/bin:$PATH
vae-dist train --preset debug
accelerate launch --config_file "$folder/opt/launch/accelerate/cpu.yaml" \
    "$folder/opt/launch/train.py" --preset debug --name two --no-cuda True --expect-world-size 2
grep -H '"state": "done"' runs/*/status.json
