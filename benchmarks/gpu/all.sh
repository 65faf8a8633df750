#!/usr/bin/env bash
# Everything that needs a GPU, in order of importance, in one command of at most ten minutes: the tests, then the
# benchmarks. Results and a log go to $OUT if that is set, else to benchmarks/results.
#
#     bash benchmarks/gpu/all.sh                     all of it
#     bash benchmarks/gpu/all.sh maxsim training     these alone, each with the whole time that is left
#     SECONDS_LEFT=3000 bash benchmarks/gpu/all.sh   where there is more time
#
# Nothing has to be installed. Peers are found in the folder $PEERS, filled by
# `pip install --no-index --no-deps --target $PEERS *.whl`: flash-maxsim 0.3.0; fast-plaid 1.7.0.2110 (for Python 3.12)
# with fastkmeans 0.5.0 and usearch.
set -uo pipefail
cd "$(dirname "$0")/../.."
left() { echo $((${SECONDS_LEFT:-590} - SECONDS)); }

site=$(mktemp -d)
trap 'rm -r "$site"' EXIT
mkdir "$site/colbertz"
ln -s "$PWD"/colbertz/* "$site/colbertz/"
export PYTHONPATH="$site${PEERS:+:$PEERS}${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
[ -x .venv/bin/python ] && [ "${PYTHON:-}" = "" ] && PYTHON=.venv/bin/python
python=${PYTHON:-python3}

failed=()
attempt() { # name, seconds at most, command …
    local name=$1 limit=$2
    shift 2
    [ "$(left)" -lt "$limit" ] && limit=$(left)
    if [ "$limit" -lt 10 ]; then
        failed+=("$name: no time left")
        return
    fi
    echo "== $name"
    # INT, so that pytest says what failed so far. A cache of its own each: configurations chosen on the tests' tiny
    # inputs would be taken for large ones where a kernel's key does not tell them apart.
    TRITON_CACHE_DIR="$site/$name" timeout --signal=INT --kill-after=10 "$limit" "$@" || failed+=("$name: $?")
}

everything() {
    local names=("$@") limit
    declare -A limits=([tests]=100 [maxsim]=130 [training]=60 [plaid]=70 [candidates]=40 [search]=110 [encoder]=60)
    [ $# -eq 0 ] && names=(tests maxsim training plaid candidates search encoder)
    for name in "${names[@]}"; do
        limit=${limits[$name]}
        [ $# -gt 0 ] && limit=$(left)
        if [ "$name" = tests ]; then
            # -P: import the package from $site, not from this folder.
            attempt tests "$limit" "$python" -P -m pytest --tb=short -m gpu --continue-on-collection-errors tests
            attempt "kernel tests" "$limit" "$python" -P -m pytest --tb=short tests/kernels/test_*_triton.py \
                tests/index/search/test_gpu.py
        else
            attempt "$name" "$limit" "$python" "benchmarks/gpu/$name.py" ${DRY:+--dry} \
                ${OUT:+--out "$OUT/gpu_$name.json"}
        fi
    done
    echo "== ${SECONDS} s; failed: ${#failed[@]}" "${failed[@]}"
    [ ${#failed[@]} -eq 0 ]
}

if [ -n "${OUT:-}" ]; then
    everything "$@" 2>&1 | tee "$OUT/log.txt"
else
    everything "$@"
fi
