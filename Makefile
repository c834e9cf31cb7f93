# All of it needs nothing but make and Python 3.11 or newer: what is installed goes into .venv.
#
#   make demo    play the story on a real Glance
#   make serve   leave that Glance running
#   make test    lint, then every test this machine can run
#   make lint    flake8 and mypy
#   make bench   what the guard costs, as ratios against the bare pipeline
#   make bench-full   the same on each database, with a million attempts in the store and uploads of 2 GiB
#   make chaos   break two hosts at random and hold all answers against what is there (SECONDS=60 SEED=)
#   make clean   remove what these made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Errors only: pip's warnings are about how this machine is set up.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet install --constraint constraints.txt
SOURCES := imgguard demo tests bench chaos setup.py

.PHONY: demo serve test lint bench bench-full chaos clean

demo: $(VENV)/demo.stamp
	@$(BIN)/python -m demo

serve: $(VENV)/demo.stamp
	@$(BIN)/python -m demo serve

# Lint goes first, so that the last line is pytest's own summary. Some tests need a process of their own: those
# that fork must not share one with Glance, which brings eventlet; those of the requeue not with imports that
# are still being watched, for Glance on SQLite loses a task whose beginning meets another writer.
ALONE := tests/test_requeue.py
FORKING := tests/test_leases.py tests/test_sweep.py tests/store/test_connections.py

# Once more, with Glance behind the reverse proxy.
THROUGH := $(addprefix tests/test_,upload.py reads.py declare.py deletes.py lists.py)

test: lint
	$(BIN)/python -m pytest $(FORKING)
	$(BIN)/python -m pytest $(ALONE)
	$(BIN)/python -m pytest $(addprefix --ignore=,$(ALONE) $(FORKING))
	IMGGUARD_THROUGH=proxy $(BIN)/python -m pytest $(THROUGH)

lint: $(VENV)/test.stamp
	$(BIN)/python -m flake8 $(SOURCES)
	$(BIN)/python -m mypy

RESULTS := bench/results

bench: $(VENV)/test.stamp
	$(BIN)/python -m bench --output $(RESULTS)

# Glance itself is on SQLite, which leaves the least time to compare with, but where it is to be written to by many.
bench-full: $(VENV)/test.stamp
	$(BIN)/python -m bench --full --output $(RESULTS) --publish
	$(BIN)/python -m bench --store postgresql --attempts 1000000 --output $(RESULTS) --publish
	$(BIN)/python -m bench --store mariadb --attempts 1000000 --output $(RESULTS) --publish
	$(BIN)/python -m bench --store postgresql --glance postgresql --only 'at once'

SECONDS := 60
SEED :=

chaos: $(VENV)/test.stamp
	@$(BIN)/python -m chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

clean:
	rm -rf $(VENV) .demo .mypy_cache .pytest_cache .hypothesis .coverage build dist *.egg-info
	find imgguard demo tests bench chaos -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, set PYTHON=")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/demo.stamp: $(VENV)/python.stamp setup.cfg setup.py constraints.txt
	@echo "Installing into $(VENV), once; this takes a minute or two ..."
	@$(INSTALL) --editable '.[demo]'
	@touch $@

# What tests need contains what the demo needs.
$(VENV)/test.stamp: $(VENV)/python.stamp setup.cfg setup.py constraints.txt
	@echo "Installing into $(VENV), once; this takes a minute or two ..."
	@$(INSTALL) --editable '.[test,postgresql,mysql,messaging,metrics,proxy]'
	@touch $(VENV)/demo.stamp $@
