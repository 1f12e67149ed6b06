PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

# Containers often forbid byte-code, and then every process compiles all it imports again: 10 s.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test lint bench clean

help:
	@echo "make demo    set up .venv, train Dreamer on CartPole-v1, evaluate it, leave runs/demo"
	@echo "make test    run the tests and the notebooks"
	@echo "make lint    check style and formatting"
	@echo "make bench   measure speed, write benchmarks/results/"
	@echo "make clean   remove .venv (runs/ stays)"
	@echo "Another interpreter: make PYTHON=python3.12 demo"

# One environment for everything, rebuilt when the lock changes. The lock is complete, so pip
# resolves nothing; --no-compile leaves byte-compiling to the first import of what is used.
$(STAMP): requirements.txt setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "dreamerzero needs Python 3.11 or newer; '$(PYTHON)' is" \
	    "$$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into .venv"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile --no-deps \
	  -r requirements.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps \
	  --no-build-isolation -e .
	@touch $@

demo: $(STAMP)
	@$(BIN)/dreamerzero train dreamer --env CartPole-v1 --steps 12000 --seed 0 --run-dir runs/demo
	@$(BIN)/dreamerzero eval runs/demo --episodes 32 --video runs/demo/video.gif
	@echo "See runs/demo: curve.png, video.gif, dream.png, summary.json"

# A file's tests share what they trained, so each file has one process. One can take 6 GB.
test: $(STAMP)
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --nbmake tests notebooks

lint: $(STAMP)
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .

bench: $(STAMP)
	@$(BIN)/python benchmarks/dyna_speed.py
	@$(BIN)/python benchmarks/train_speed.py dyna
	@$(BIN)/python benchmarks/train_speed.py dreamer
	@$(BIN)/python benchmarks/train_speed.py muzero
	@$(BIN)/python benchmarks/dreamer_step.py
	@$(BIN)/python benchmarks/search_speed.py

clean:
	@rm -rf .venv
