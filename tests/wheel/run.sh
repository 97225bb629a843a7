#!/bin/bash
# Builds the wheel, unpacks it into an empty folder and runs the program from there, with the
# libraries of PYTHON's environment but none of the checkout's files: tests/wheel/run.sh PYTHON
set -euo pipefail
python=$1
checkout=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/dist" "$checkout"
"$python" -m pip install --quiet --no-deps --ignore-installed --prefix "$work/installed" "$work"/dist/*.whl
site=$(echo "$work"/installed/lib/python*/site-packages)
rm -rf "$checkout/build/lib" "$checkout"/build/bdist*
mkdir "$work/empty" && cd "$work/empty"
export PYTHONPATH=$site OMP_NUM_THREADS=1
cli=("$python" -m launch.cli)
[[ $("$python" -c 'import launch; print(launch.__path__[0])') == "$site/launch" ]]
"${cli[@]}" slurm --out batch
for file in train.sbatch site.sh ablations.txt accelerate/multi_node.yaml; do
    [[ -s batch/$file ]] || { echo "vae-dist slurm did not write $file" >&2 && exit 1; }
done
"${cli[@]}" bench data 2> said && { echo "bench should say that it needs a checkout" >&2 && exit 1; }
grep -q 'not part of the wheel' said
"${cli[@]}" demo --dataset digits --epochs 2
[[ -s eval/demo_digits/report.html ]]
echo "wheel: demo, presets, Accelerate configurations and Slurm scripts work in an empty folder"
