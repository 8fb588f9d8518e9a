#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-only
# make test: sets up what the tests need, runs them all, and ends by saying what did not run and why.
# In CI (CI=true) anything that did not run is a failure.
set -u
cd "$(dirname "$0")/.." || exit 1
what=${1:-all}
python=${PYTHON:-python3}
packages='gcc libc6-dev libxen-dev libseccomp-dev umockdev strace shellcheck python3-venv mmdebstrap qemu-system-x86'
packages="$packages busybox-static cpio binutils zstd"
packages="$packages scdoc man-db bash zsh fish"
# For building the packages of Debian and RPM, and their linters.
packages="$packages git dpkg-dev debhelper dh-python pybuild-plugin-pyproject python3-all python3-setuptools python3-wheel"
packages="$packages python3-cffi python3-click python3-pyudev lintian rpm rpmlint"
packages="$packages chromium fonts-dejavu-core prometheus ansible-core python3-apt openssh-server openssh-client iproute2"
missed=''
failed=''

miss() { missed="$missed
  $1"; }

install_packages() {
	command -v dpkg-query >/dev/null || return 0
	absent=''
	for package in $packages; do
		dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || absent="$absent $package"
	done
	[ -n "$absent" ] || return 0
	if [ "$(id -u)" != 0 ]; then
		echo "tests: not root, so not installed:$absent"
		return 0
	fi
	echo "tests: installing$absent"
	# shellcheck disable=SC2086 # a list
	{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends $absent; } \
		>build/apt.log 2>&1 || { tail -5 build/apt.log; echo 'tests: apt-get failed, see build/apt.log'; }
}

mkdir -p build
install_packages
make --no-print-directory PYTHON="$python" build/venv/.test || exit 1

# beside NAME COMMAND...: begin it, for all processors to have work; told NAME when all of them have ended.
beside() {
	name=$1
	shift
	{
		"$@" >"build/$name.log" 2>&1
		echo $? >"build/$name.status"
	} &
}

told() {
	cat "build/$1.log"
	[ "$(cat "build/$1.status")" = 0 ] || failed="$failed $1"
	skips=$(grep '^SKIPPED' "build/$1.log")
	[ -z "$skips" ] || miss "$skips"
}

# The lab installs Debian's packages, and runs an Ansible module with what Ansible brings for modules.
packages() {
	rm -rf build/deb build/ansible-core
	mkdir -p build/ansible-core/ansible
	: >build/ansible-core/ansible/__init__.py # as in what Ansible sends to a host
	cp -r /usr/lib/python3/dist-packages/ansible/module_utils build/ansible-core/ansible/ || return
	NOCHECK=1 make --no-print-directory deb >build/deb-build.log 2>&1 || {
		cat build/deb-build.log
		return 1
	}
	echo 'tests: packages built'
}

# With what it cost, children included.
unit() {
	build/venv/bin/python -m pytest
	status=$?
	times >build/unit.times # in this shell: in a pipe it would be of another
	echo "tests: processor time of the units, user and system: $(tail -n 1 build/unit.times)"
	return $status
}

faults() {
	build/venv/bin/python -m pytest tests/fault tests/fuzz/test_growth.py && make --no-print-directory PYTHON="$python" properties
}

[ "${CI:-}" = true ] && export XLPLUG_REQUIRE=abi,umockdev,strace,lint,wheel,root,man,packages,pictures
[ "$what" = lab ] || beside unit unit
[ "$what" = unit ] || beside deb packages
wait
[ "$what" = lab ] || told unit
[ "$what" = unit ] || told deb

if [ "$what" = all ]; then
	beside faults faults
	beside packages build/venv/bin/python -m pytest tests/packages tests/pictures tests/fleet
	wait
	told faults
	told packages
	if reason=$(build/venv/bin/python -c 'import atheris' 2>&1); then
		beside fuzz make --no-print-directory PYTHON="$python" MINUTES="${MINUTES:-3}" SEED="${SEED:-1}" fuzz
		wait
		told fuzz
	else
		miss "the fuzzer (atheris): $(echo "$reason" | tail -n 1)"
	fi
fi

if [ "$what" != unit ]; then
	if reason=$(build/venv/bin/python -m tests.lab check 2>&1); then
		jobs=''
		# The longest first, so that no machine is left alone with one of them at the end.
		for part in delegate rest stubdom hook admin igd watch systemd fire; do
			for release in ${LAB_RELEASES:-bookworm trixie bullseye}; do
				case $release:$part in
				bullseye:rest) jobs="$jobs bullseye:smoke" ;;
				bullseye:igd) jobs="$jobs bullseye:igd-smoke" ;;
				bullseye:delegate) jobs="$jobs bullseye:delegate-smoke" ;;
				bullseye:* | trixie:systemd | trixie:admin) ;;
				*) jobs="$jobs $release:$part" ;;
				esac
			done
		done
		# One machine more than there are processors, if there is memory for it, because each of them waits now and then.
		room=$(awk '/^MemAvailable:/ { print int($2 / 3500000) }' /proc/meminfo)
		machines=$(($(nproc) + 1))
		[ "$room" -ge "$machines" ] || machines=$((room > 0 ? room : 1))
		machines=${LAB_MACHINES:-$machines}
		# Each tells its story when it is done.
		# shellcheck disable=SC2086 # a list
		printf '%s\n' $jobs | xargs -P "$machines" -I '{}' sh tests/lab/release.sh '{}' build/venv/bin/python
		for job in $jobs; do
			[ "$(cat "build/lab-${job%:*}-${job#*:}.status")" = 0 ] || failed="$failed lab-${job%:*}-${job#*:}"
		done
	else
		miss "the lab (real Xen): ${reason#lab: }"
	fi
fi

if [ -n "$missed" ]; then
	echo "tests that did not run:$missed"
	[ "${CI:-}" = true ] && failed="$failed not-run"
fi
if [ -n "$failed" ]; then
	echo "tests: FAILED:$failed"
	exit 1
fi
echo 'tests: all that ran passed'
