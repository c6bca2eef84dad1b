#!/usr/bin/env bash
# Runs the tests, the files side by side on up to four cores. Arguments go to pytest, e.g.  bash run_tests.sh -k metric
# --slow runs the slow ones, too, and -n 0 runs them in one process.
set -eu
cd "$(dirname "$0")"
also=requirements-test.txt
source ./env.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # of each process: the files make use of the cores
exec "$PYTHON" -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
