#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# deb.sh FOLDER: builds Debian's packages from what git has, in a folder of its own, and leaves them in FOLDER.
# NOCHECK=1 leaves the tests out, and what they need.  dpkg-buildpackage writes beside its source, and would leave its traces in the work tree.
set -eu
out=$1
cd "$(dirname "$0")/.."
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/xlplug"
git ls-files -z --cached --others --exclude-standard | tar --null -T - --ignore-failed-read -cf - 2>/dev/null |
	tar -xf - -C "$work/xlplug"
rm -f "$out"/*
cd "$work/xlplug"
# The packages of Debian itself, and no other Python that comes first in PATH here.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(dpkg-parsechangelog -S Timestamp)}"
[ -z "${NOCHECK:-}" ] || export DEB_BUILD_OPTIONS=nocheck DEB_BUILD_PROFILES=nocheck
dpkg-buildpackage -us -uc "${DEB_BUILD:--b}" >"$out/build.log" 2>&1 || {
	tail -30 "$out/build.log" >&2
	echo "deb: dpkg-buildpackage failed, see $out/build.log" >&2
	exit 1
}
cd ..
mv xlplug*_* "$out"
ls "$out"
