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

lab-test:
	@PYTHON=$(PYTHON) tests/run.sh lab

lab:
	@$(PYTHON) -m tests.lab shell

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
