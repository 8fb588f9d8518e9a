# Two commands for a newcomer: "make demo" and "make test".
PYTHON ?= python3
VENV = build/venv
IN = $(VENV)/bin
# Byte-compiled modules are part of what is measured and shipped.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test unit faults properties breakages fuzz mutants lab lab-test soak bench bench-lab bench-delegate install preload install-preload man completion install-hook install-program install-system deb release clean
.DELETE_ON_ERROR:

demo: $(VENV)/.runtime
	@echo '$$ xlplug plan examples/domain.cfg --host tests/recorded/hosts/igd-laptop.json'
	@$(IN)/xlplug plan examples/domain.cfg --host tests/recorded/hosts/igd-laptop.json
	@echo '$$ xlplug grant 7 --recorded tests/recorded/domains/igd-laptop-stubdom'
	@$(IN)/xlplug grant 7 --recorded tests/recorded/domains/igd-laptop-stubdom

test:
	@PYTHON=$(PYTHON) tests/run.sh all

unit:
	@PYTHON=$(PYTHON) tests/run.sh unit

# Each comparison of policy and execution turned round: a test must fail.  ONLY="plan igd" for some modules.
mutants: $(VENV)/.test
	@$(IN)/python -m tests.mutants $(ONLY)

# Every fault at every position of a grant and a revoke, as a table.
faults: $(VENV)/.test
	@$(IN)/python -m tests.fault

# Generated hosts, configurations and sequences of runs against the rules of the documents, and many processes at once.
# EXAMPLES=5000 for more.
properties: $(VENV)/.test
	@EXAMPLES=$(or $(EXAMPLES),500) $(IN)/python -m pytest -q tests/property tests/race

# The code broken on purpose: which property notices?
breakages: $(VENV)/.test
	@$(IN)/python -m tests.property

# Everything that is parsed, coverage-guided.  MINUTES=3 for all of it together, ONLY="config elf" for some targets.
fuzz: $(VENV)/.test
	@$(IN)/python -m tests.fuzz --minutes $(or $(MINUTES),60) --seed $(or $(SEED),0) $(ONLY)

# XEN=4.14, XEN=4.17 or XEN=4.20: one of them only (the shell: 4.17)
RELEASE_4.14 = bullseye
RELEASE_4.17 = bookworm
RELEASE_4.20 = trixie
RELEASE = $(if $(XEN),$(or $(RELEASE_$(XEN)),$(error the lab has XEN=4.14, XEN=4.17 and XEN=4.20, not $(XEN))))

lab-test:
	@PYTHON=$(PYTHON) LAB_RELEASES='$(RELEASE)' tests/run.sh lab

# Random operations on the real Xen, with all that must be true after each round; the same SEED, the same operations.
soak: MINUTES ?= 10
soak: SEED ?= $(shell date +%s)
soak:
	@$(PYTHON) -m tests.lab exec --release $(or $(RELEASE),bookworm) --timeout $$(($(MINUTES) * 60 + 300)) --out build/soak -- \
		python3 -m tests.lab.dom0.soak $(MINUTES) $(SEED)

lab:
	@$(PYTHON) -m tests.lab shell --release $(or $(RELEASE),bookworm) --machine $(or $(MACHINE),standard)

bench: $(VENV)/.test
	@$(IN)/python -m benchmarks

# What the hook adds to xl create, on the real Xen.
bench-lab: $(VENV)/.test
	@$(IN)/python -m tests.lab exec --timeout 2400 --release $(or $(RELEASE),bookworm) --out build/bench-$(or $(RELEASE),bookworm) -- python3 -m benchmarks.dom0

# What a delegate costs, beside QEMU's emulation, direct mapping, and no device.
bench-delegate: $(VENV)/.test
	@$(IN)/python -m tests.lab exec --machine devices --release $(or $(RELEASE),bookworm) --out build/bench-delegate \
		-- python3 -m benchmarks.delegate

$(VENV)/.runtime: pyproject.toml
	@echo 'setting up a private environment in $(VENV)'
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("xlplug needs Python 3.11 or newer; try make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV) || { echo 'no venv module: apt install python3-venv' >&2; exit 1; }
	@$(IN)/pip install -q -e . 2>build/pip.log || { cat build/pip.log >&2; exit 1; }
	@$(IN)/python -m compileall -q xlplug
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	@$(IN)/pip install -q -e '.[test]' 2>build/pip.log || { cat build/pip.log >&2; exit 1; }
	@touch $@

# For dom0 and for packagers: no pip.  PYTHON's own folder for modules, and a program that it runs.  The modules are compiled,
# without which each start would take three times as long; a package does that when it is installed, so not with DESTDIR.
PREFIX = /usr/local
MODULES = $(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
install: install-program
	find xlplug -name '*.py' -o -name '*.h' -o -name py.typed | while read -r file; do \
		install -D -m 644 "$$file" "$(DESTDIR)$(MODULES)/$$file" || exit 1; done
	install -d $(DESTDIR)$(MODULES)/xlplug/_hooks
	install -m 644 hooks/xl hooks/device-model hooks/xlplug hooks/xlplug-watch.service $(DESTDIR)$(MODULES)/xlplug/_hooks/
	$(if $(DESTDIR),,$(PYTHON) -m compileall -q $(MODULES)/xlplug)

# A script for this Python, which finds its modules without searching for packages (docs/performance.md).
PYTHON_PATH = $(shell command -v $(PYTHON))
FOLDERS = $(shell $(PYTHON) -c 'import site; print(list(dict.fromkeys(["$(MODULES)", *site.getsitepackages()])))')
BARE = sed -e '1s|^\#!.*|\#!$(PYTHON_PATH) -IS|' -e "s|^FOLDERS = .*|FOLDERS = $(FOLDERS)|"
install-program:
	install -d $(DESTDIR)$(PREFIX)/bin
	$(BARE) hooks/xlplug >$(DESTDIR)$(PREFIX)/bin/xlplug
	chmod 755 $(DESTDIR)$(PREFIX)/bin/xlplug

# For packagers, besides the modules and the program: manual pages (scdoc), completion, and what the hook needs.  Nothing of it
# is switched on: "xlplug hook install" finds the front end and the wrapper here and links the front end into PATH.
HOOK = $(DESTDIR)$(PREFIX)/lib/xlplug
SHARE = $(DESTDIR)$(PREFIX)/share
MADE = packaging/generated
ZSHDIR = vendor-completions
man:
	$(PYTHON) packaging/man.py $(MADE)/man

completion:
	$(PYTHON) packaging/completion.py $(MADE)/completion

install-hook:
	install -d $(HOOK)
	$(BARE) hooks/device-model >$(HOOK)/device-model
	sed -e 's|^xlplug=xlplug$$|xlplug=$(PREFIX)/bin/xlplug|' -e 's|^wrapper=.*|wrapper=$(PREFIX)/lib/xlplug/device-model|' hooks/xl >$(HOOK)/xl
	chmod 755 $(HOOK)/xl $(HOOK)/device-model

install-system: install-program install-hook man completion
	install -d $(SHARE)/man/man5 $(SHARE)/man/man7 $(SHARE)/man/man8 $(SHARE)/bash-completion/completions
	install -d $(SHARE)/zsh/$(ZSHDIR) $(SHARE)/fish/vendor_completions.d
	for section in 5 7 8; do install -m 644 $(MADE)/man/*.$$section $(SHARE)/man/man$$section/ || exit 1; done
	install -m 644 $(MADE)/completion/bash/xlplug $(SHARE)/bash-completion/completions/xlplug
	install -m 644 $(MADE)/completion/zsh/_xlplug $(SHARE)/zsh/$(ZSHDIR)/_xlplug
	install -m 644 $(MADE)/completion/fish/xlplug.fish $(SHARE)/fish/vendor_completions.d/xlplug.fish

# The optional C library for the device model (hooks/preload/README.md).  -ldl: dlsym, where it is not in the C library.
PRELOAD = build/libxlplug-preload.so
CFLAGS ?= -O2 -g
LDFLAGS ?= -Wl,-z,relro,-z,now
LDLIBS ?= -ldl
preload: $(PRELOAD)

$(PRELOAD): hooks/preload/preload.c
	@mkdir -p $(@D)
	$(CC) -std=c11 -Wall -Wextra -fPIC -fvisibility=hidden $(CPPFLAGS) $(CFLAGS) -shared -Wl,-z,defs $(LDFLAGS) -o $@ $< $(LDLIBS)

install-preload: $(PRELOAD)
	install -d $(DESTDIR)$(PREFIX)/lib/xlplug
	install -m 644 $(PRELOAD) $(DESTDIR)$(PREFIX)/lib/xlplug/

# The packages of Debian, in build/deb; NOCHECK=1 leaves the tests out.
DEB = build/deb
deb:
	packaging/deb.sh $(DEB)

# A release of a commit, in dist/: sdist, wheel, packages of Debian and RPM, checksums.  The same bytes every time.
release: $(VENV)/.test
	PYTHON=$(IN)/python packaging/release.sh dist

clean:
	rm -rf build packaging/generated
