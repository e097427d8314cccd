# make demo: set up, then train the embedded recipe.  make test: set up, then check and test.  make check: ruff and mypy.

PYTHON ?= $(shell for python in python3.11 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; break; }; done)
VENV := .venv
INSTALLED := $(VENV)/.installed-requirements
TORCH := $(shell grep -m 1 '^torch==' requirements.txt)

.PHONY: demo test check setup

demo: setup
	$(VENV)/bin/python run_all.py --test

test: check
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

setup: $(INSTALLED)

# Without an NVIDIA GPU torch goes first and alone: where pip finds a build without CUDA, nothing later brings CUDA in.
$(INSTALLED): requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: found neither python3.11 nor a python3 that new." \
		"Install it, or name yours: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing the pinned libraries in $(VENV): minutes without a word, up to 2.6 GB to download;" \
		"README.md says how it is less without an NVIDIA GPU"
	"$(PYTHON)" -m venv $(VENV)
	command -v nvidia-smi >/dev/null || $(VENV)/bin/python -m pip install --disable-pip-version-check -q $(TORCH)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -q -r requirements.txt
	@touch $@
