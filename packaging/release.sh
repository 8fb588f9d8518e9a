#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# release.sh FOLDER [COMMIT]: everything that a release is, from a commit alone, byte for byte the same wherever it is built
# with the same tools: sdist, wheel, Debian's source and binary packages, RPMs where rpmbuild is, and SHA256SUMS.
# PYTHON has setuptools, wheel and click.
set -eu
python=${PYTHON:-python3}
commit=${2:-HEAD}
cd "$(dirname "$0")/.."
case $python in */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;; esac
mkdir -p "$1"
out=$(cd "$1" && pwd)
# rpmbuild writes the folder that it builds in into the source package, so that is the same everywhere, too.
work=/var/tmp/xlplug-release-$(git rev-parse --verify "$commit^{commit}")
mkdir -m 700 "$work" || {
	echo "release: $work is there already: another release of this commit is being built; if not, remove it" >&2
	exit 1
}
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct "$commit")
export SOURCE_DATE_EPOCH LC_ALL=C.UTF-8 TZ=UTC PYTHONDONTWRITEBYTECODE=1
umask 022

fail() {
	tail -30 "$work/log" >&2
	echo "release: $1 failed" >&2
	exit 1
}

rm -f "$out"/*
mkdir "$work/tree"
git -c tar.umask=022 archive "$commit" | tar -xf - -C "$work/tree"
cd "$work/tree"
make -s man completion PYTHON="$python" >"$work/log" 2>&1 || fail 'make man completion'
"$python" packaging/dist.py "$out" >"$work/log" 2>&1 || fail 'packaging/dist.py'

mkdir "$work/deb"
tar -xf "$out"/xlplug-*.tar.gz -C "$work/deb"
cd "$work"/deb/xlplug-*
PATH=/usr/sbin:/usr/bin:/sbin:/bin DEB_BUILD_OPTIONS=nocheck DEB_BUILD_PROFILES=nocheck \
	dpkg-buildpackage -us -uc >"$work/log" 2>&1 || fail dpkg-buildpackage
mv ../xlplug*_*.deb ../xlplug_*.dsc ../xlplug_*.tar.* "$out"

if command -v rpmbuild >/dev/null; then
	mkdir "$work/sources"
	cp "$out"/xlplug-*.tar.gz "$work/sources"
	for spec in xlplug xlplug-preload; do
		# --nodeps: on Debian the tools are there, and rpm does not know it.
		rpmbuild -ba --nodeps --quiet -D "_topdir $work/rpm" -D "_sourcedir $work/sources" -D "_buildhost localhost" \
			-D 'use_source_date_epoch_as_buildtime 1' -D 'clamp_mtime_to_source_date_epoch 1' -D 'debug_package %{nil}' \
			"$work/tree/packaging/$spec.spec" >"$work/log" 2>&1 || fail "rpmbuild $spec"
	done
	mv "$work"/rpm/SRPMS/*.rpm "$work"/rpm/RPMS/*/*.rpm "$out"
fi
cd "$out"
sha256sum xlplug* >SHA256SUMS
cat SHA256SUMS
