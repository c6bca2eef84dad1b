#!/usr/bin/env bash
# Runs the tests; arguments go to pytest, e.g.  bash run_tests.sh -k metric
set -eu
cd "$(dirname "$0")"
also=requirements-test.txt
source ./env.sh
exec "$PYTHON" -m pytest "$@"
