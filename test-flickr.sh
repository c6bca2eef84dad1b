#!/usr/bin/env bash
# MIRFlickr-25K. TASK: 0 trains the real-valued fusion, 1 trains the hash functions, 2 tests real-valued, 3 tests hash.
# Settings can be given here too, e.g.  bash test-flickr.sh --epoch 5 --hash_lens 16
TASK=1

cd "$(dirname "$0")" && source ./run.sh mirflickr "$TASK" "$@"
