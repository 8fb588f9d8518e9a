#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# release.sh RELEASE PYTHON: one release's lab run for tests/run.sh, its output in one piece, its status in a file.
set -u
release=$1
python=$2
echo 70 >"build/lab-$release.status"
[ "$release" != bullseye ] || set -- -m smoke # the oldest: what may differ there, in a minute
[ "$release" = bullseye ] || set --
"$python" -m tests.lab run --release "$release" --timeout 1500 --out "build/lab-$release" -- "$@" \
	>"build/lab-$release.txt" 2>&1
echo $? >"build/lab-$release.status"
cat "build/lab-$release.txt"
