# Two commands for a newcomer: "make demo" and "make test".
PYTHON ?= python3
VENV = build/venv
IN = $(VENV)/bin
# Byte-compiled modules are part of what is measured and shipped.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test unit lab lab-test bench clean
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

# XEN=4.14, XEN=4.17 or XEN=4.20: one of them only (the shell: 4.17)
RELEASE_4.14 = bullseye
RELEASE_4.17 = bookworm
RELEASE_4.20 = trixie
RELEASE = $(if $(XEN),$(or $(RELEASE_$(XEN)),$(error the lab has XEN=4.14, XEN=4.17 and XEN=4.20, not $(XEN))))

lab-test:
	@PYTHON=$(PYTHON) LAB_RELEASES='$(RELEASE)' tests/run.sh lab

lab:
	@$(PYTHON) -m tests.lab shell --release $(or $(RELEASE),bookworm)

bench: $(VENV)/.test
	@$(IN)/python -m benchmarks

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

clean:
	rm -rf build
