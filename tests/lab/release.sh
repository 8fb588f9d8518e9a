#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# release.sh RELEASE:PART PYTHON: a part of a release's lab run for tests/run.sh, its output in one piece, its status in a file.
# Parts, because a good deal of the time is libxl waiting, and so that none takes more than eight minutes alone: "hook",
# "watch", "stubdom" and "fire" are named after their tests, "igd" and "delegate" have machines of their own, "admin" is doctor,
# packages and Ansible, and "rest" everything else.  "systemd" is a dom0 of its own, with libvirt, on bookworm only.
# Tests marked "once" run on bookworm only; LAB_ALL=yes has all of them run everywhere.
# "smoke", "igd-smoke" and "delegate-smoke" are for the oldest release: what may differ there, in a minute.
set -u
release=${1%:*}
part=${1#*:}
python=$2
job=build/lab-$release-$part
echo 70 >"$job.status"
hook='test_hook test_preload'
watch='test_watch test_many_guests'
stubdom='test_stubdom test_watch_stubdom'
delegate='test_delegate test_delegate_bad test_delegate_bindings test_delegate_death test_delegate_guests'
# The last one takes xenstored away.
delegate="$delegate test_delegate_rights test_delegate_store"
fire='test_fire'
# What administrators meet, mostly "once": elsewhere too little for a machine of its own.
admin='test_doctor test_package test_ansible_module'
machine=standard
files=''
set --
case $part in
smoke)
	set -- -m smoke
	for test in $delegate; do set -- "$@" "--ignore=tests/lab/dom0/$test.py"; done
	;;
igd) machine=igd ;;
systemd) machine=systemd ;;
igd-smoke)
	machine=igd
	set -- -m smoke
	;;
hook) files=$hook ;;
watch)
	machine=small-ring
	files=$watch
	;;
delegate)
	machine=devices
	files=$delegate
	;;
delegate-smoke)
	machine=devices
	set -- -m smoke
	files=$delegate
	;;
stubdom) files=$stubdom ;;
fire) files=$fire ;;
admin) files=$admin ;;
rest)
	[ "$release" = bookworm ] || admin=''
	for test in $hook $watch $stubdom $delegate $fire $admin; do set -- "$@" "--ignore=tests/lab/dom0/$test.py"; done
	;;
*)
	echo "lab: no part '$part'" >&2
	exit 2
	;;
esac
[ "$release:${LAB_ALL:-no}" = trixie:no ] && set -- "$@" -m 'not once'
for test in $files; do set -- "$@" "tests/lab/dom0/$test.py"; done
"$python" -m tests.lab run --release "$release" --machine "$machine" --timeout 900 --out "$job" -- "$@" >"$job.txt" 2>&1
echo $? >"$job.status"
# Nothing in the lab has a reason to be skipped, and what was is not passed.
grep -q '^=.* skipped' "$job.txt" && echo 1 >"$job.status"
echo "lab: $release, $part"
cat "$job.txt"
