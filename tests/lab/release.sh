#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# release.sh RELEASE:PART PYTHON: a part of a release's lab run for tests/run.sh, its output in one piece, its status in a file.
# Parts, because a good deal of the time is libxl waiting, and so that none takes more than eight minutes alone: "hook",
# "watch" and "stubdom" are named after their tests, "igd" has a machine of its own, and "rest" is everything else.
# "smoke" and "igd-smoke" are for the oldest release: what may differ there, in a minute.
set -u
release=${1%:*}
part=${1#*:}
python=$2
job=build/lab-$release-$part
echo 70 >"$job.status"
hook='test_hook test_preload'
watch='test_watch'
stubdom='test_stubdom test_watch_stubdom'
machine=standard
files=''
set --
case $part in
smoke) set -- -m smoke ;;
igd) machine=igd ;;
igd-smoke)
	machine=igd
	set -- -m smoke
	;;
hook) files=$hook ;;
watch) files=$watch ;;
stubdom) files=$stubdom ;;
rest) for test in $hook $watch $stubdom; do set -- "$@" "--ignore=tests/lab/dom0/$test.py"; done ;;
*)
	echo "lab: no part '$part'" >&2
	exit 2
	;;
esac
for test in $files; do set -- "$@" "tests/lab/dom0/$test.py"; done
"$python" -m tests.lab run --release "$release" --machine "$machine" --timeout 900 --out "$job" -- "$@" >"$job.txt" 2>&1
echo $? >"$job.status"
# Nothing in the lab has a reason to be skipped, and what was is not passed.
grep -q '^=.* skipped' "$job.txt" && echo 1 >"$job.status"
echo "lab: $release, $part"
cat "$job.txt"
