#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# release.sh RELEASE:PART PYTHON: a part of a release's lab run for tests/run.sh, its output in one piece, its status in a file.
# Two parts, because a good deal of the time is libxl waiting: "hooks", and "rest", which is everything that "hooks" is not.
# "smoke" is for the oldest release: what may differ there, in a minute.
set -u
release=${1%:*}
part=${1#*:}
python=$2
job=build/lab-$release-$part
echo 70 >"$job.status"
hooks='test_hook test_preload test_stubdom test_watch test_watch_stubdom'
set --
case $part in
smoke) set -- -m smoke ;;
hooks) for test in $hooks; do set -- "$@" "tests/lab/dom0/$test.py"; done ;;
rest) for test in $hooks; do set -- "$@" "--ignore=tests/lab/dom0/$test.py"; done ;;
esac
"$python" -m tests.lab run --release "$release" --timeout 1500 --out "$job" -- "$@" >"$job.txt" 2>&1
echo $? >"$job.status"
# Nothing in the lab has a reason to be skipped, and what was is not passed.
grep -q '^=.* skipped' "$job.txt" && echo 1 >"$job.status"
echo "lab: $release, $part"
cat "$job.txt"
