# `make help` lists the targets. Targets that run Python first make .venv if it is missing, or if
# pyproject.toml or a lock file has changed.
# make PYTHON=/path/to/python uses that Python instead of the first one found.
PYTHONS_KNOWN := 3.11 3.12 3.13
PYTHON ?= $(shell for v in $(PYTHONS_KNOWN); do python$$v -c "" 2>/dev/null && echo python$$v && break; done)
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check
# --no-compile: Python compiles modules on import. Compiling all of them here would take another minute.
INSTALL := $(PIP) install -qq --no-compile
# If Python could not write the compiled modules, every process would compile torch again, for 5 seconds.
unexport PYTHONDONTWRITEBYTECODE
TORCH := torch==2.14.1 torchvision==0.29.1
# make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu installs torch without CUDA, 0.2 GB
# instead of 3.
TORCH_INDEX ?=

# make setup EXTRAS="language segmentation corruptions harness" adds the libraries of those tasks and of
# LoRA's benchmarks. EXTRAS=docs adds those of the documentation.
EXTRAS ?=
# make reproduce SCALE=mini SEEDS=1,2 JOBS=2 DEVICE=cpu. The defaults are the artefact's own seeds, one
# job per core, and the scale's device.
# LAUNCHER=slurm [WAIT=true] submits to a cluster. ARGS="launcher.partition=gpu" adds any other key, and
# ARGS=--dry-run only lists the runs.
SCALE ?= mini
OPTIONS = $(if $(filter file,$(origin SCALE)),,scale=$(SCALE)) $(if $(SEEDS),seeds=$(SEEDS)) $(if $(JOBS),jobs=$(JOBS)) $(if $(DEVICE),device=$(DEVICE)) \
          $(if $(LAUNCHER),launcher=$(LAUNCHER)) $(if $(WAIT),wait=$(WAIT)) $(ARGS)
# make rehearse TASK=gpt2. Without TASK it rehearses all tasks, and needs these extras.
TASK ?=
LANGUAGE_TASKS := gpt2 imagenet resnet50 clip lora
REHEARSAL_EXTRAS = $(if $(or $(if $(TASK),,all),$(filter $(LANGUAGE_TASKS),$(TASK))),language) \
                   $(if $(or $(if $(TASK),,all),$(filter segmentation,$(TASK))),segmentation)
# make test TESTS="tests/cpr/test_groups.py -k timm" WORKERS=0 runs some of the tests, in one process.
TESTS ?=
EVERY_PUSH := not slurm and not browser and not weekly and not chaos
WORKERS ?= 2

# make test-versions PYTHONS="3.11 3.12" STRICT=true tests the oldest supported Python with the oldest
# torch, and the others with the newest.
PYTHONS ?= 3.11 3.13
TORCH_OLDEST ?= 2.11.0
TORCH_NEWEST ?= 2.14.1
STRICT ?=

# Flags that make test-sanitizers adds to the kernel's. The sanitizers' libraries must be loaded first.
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1 -g
SANITIZED = CPR_CACHE=$(CURDIR)/build/sanitizers CPR_KERNEL_FLAGS="$(SANITIZERS)" PYTHONMALLOC=malloc OMP_NUM_THREADS=2 \
            ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
            LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)"

# make bench ROUNDS=15 SHAPES=gpt2s. scripts/bench/step_times.py --help explains the options.
BENCH_OPTIONS := ROUNDS SHAPES DEVICE THREADS TABLES CONTEXT BATCH MEMORY_GB REBUILD
given = $(foreach name,$(1),$(if $($(name)),$(shell echo $(name) | tr A-Z a-z)=$($(name))))

.DEFAULT_GOAL := help
.PHONY: fake-data rehearse setup test test-weekly test-chaos test-slurm test-browser test-wheel test-versions test-sanitizers test-all lint docs demo reproduce reproduce-all records rebuild mechanism report readme prose bench bench-loading check-gpu clean help
.DELETE_ON_ERROR:

setup: .venv/.stamp $(EXTRAS:%=.venv/.stamp-%)  ## make .venv with the exact versions of the lock files (about 3 minutes)

test: .venv/.stamp  ## run the tests that a change needs, 8 minutes on 2 cores (TESTS="tests/cpr -k timm" WORKERS=0 chooses)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(or $(TESTS),-m "$(EVERY_PUSH) and not slow")

test-weekly: .venv/.stamp  ## run the tests that take too long for every push
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "weekly and not slurm" $(TESTS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "weekly and slurm" tests/slurm

test-chaos: .venv/.stamp  ## sweeps under random faults, here and on a local Slurm, 10 minutes (SEEDS=1,2,3)
	CHAOS_SEEDS=$(or $(SEEDS),1) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -m chaos $(or $(TESTS),tests/chaos tests/slurm)

test-slurm: .venv/.stamp  ## start a local Slurm and run its tests (as root on Debian, skipped elsewhere)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slurm and not weekly" $(or $(TESTS),tests/slurm)

test-browser: .venv/.stamp  ## test the report page in Chromium (skipped without it, unless CI=true)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser $(or $(TESTS),tests/browser)

# Slurm's tests wait for most of their time, and Chromium's need one core.
test-all: .venv/.stamp  ## run the whole suite, and test-slurm and test-browser beside it
	@beside=$$(mktemp); { $(MAKE) test-slurm && $(MAKE) test-browser; } > $$beside 2>&1 & failed=0; \
	$(MAKE) test TESTS='-m "$(EVERY_PUSH)"' || failed=$$?; wait $$! || failed=$$?; cat $$beside; rm $$beside; exit $$failed

test-wheel: .venv/.stamp  ## build wheel and sdist, compare them, take a step with the wheel and only torch
	$(BIN)/python tests/distribution/check_wheel.py

# This does not need .venv, which would take another 5 GB.
test-versions:  ## run tests/cpr on the wheel with the oldest and the newest torch (PYTHONS="3.11 3.13" STRICT=true)
	$(PYTHON) tests/distribution/check_versions.py $(PYTHONS) --oldest $(TORCH_OLDEST) --newest $(TORCH_NEWEST) --workers $(WORKERS) \
	  $(if $(STRICT),--strict) $(if $(TESTS),--options="$(TESTS)")

# The first process builds the kernel, so that a failed build is an error. Tests that measure memory are
# left out, because the sanitizer keeps freed memory. --capture=sys keeps the sanitizers' reports on the
# terminal.
test-sanitizers: .venv/.stamp  ## run the CPU kernel's tests with AddressSanitizer and UndefinedBehaviorSanitizer (gcc, about 3 minutes)
	$(SANITIZED) $(BIN)/python -W error -c "from cpr.kernels import build; assert build.load()"
	$(SANITIZED) $(BIN)/python -m pytest -p no:cacheprovider --capture=sys \
	  -k "(test_kernels or cpu) and not temporary and not one_copy" $(or $(TESTS),tests/cpr/test_kernels.py $(wildcard tests/cpr/test_matrix.py))

lint: .venv/.stamp  ## check style, formatting, imports between the folders, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

docs: .venv/.stamp .venv/.stamp-docs  ## build the documentation into build/docs. A broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "build/docs/index.html"

demo: .venv/.stamp  ## CPR in three minutes: AdamW and AdamCPR on grokking, live curves, one figure
	$(BIN)/python scripts/demo.py $(ARGS)

fake-data: .venv/.stamp $(REHEARSAL_EXTRAS:%=.venv/.stamp-%)  ## a small fake data set in its owner's format, to rehearse with (TASK=imagenet)
	$(BIN)/python scripts/fake_data.py $(TASK) $(ARGS)

rehearse: .venv/.stamp $(REHEARSAL_EXTRAS:%=.venv/.stamp-%)  ## the paper's scale on fake data, 3 steps a run: 6 minutes on 2 cores, or one task (TASK=imagenet)
	$(BIN)/python scripts/rehearse.py $(TASK) $(ARGS)

reproduce: .venv/.stamp  ## grokking with three seeds, then Figure 2, into results/mini: 8 minutes (SCALE= SEEDS= JOBS= DEVICE=)
	$(BIN)/python scripts/reproduce.py grokking figure2 $(OPTIONS)

reproduce-%: .venv/.stamp  ## one artefact, for example reproduce-figure2
	$(BIN)/python scripts/reproduce.py $* $(OPTIONS)

# The recipe uses a variable instead of $(MAKE), because make -n would run a line with $(MAKE).
MEASURE_TIMES = $(MAKE) runs/.bench-$(SCALE)
# If an extra is missing, its artefacts are reported and the others are made. Exit codes above 1 are the
# user's mistakes and signals.
reproduce-all: .venv/.stamp  ## every artefact, the cheapest first, then Tables I.1 to I.3. Resumes (ARGS=--dry-run lists)
	$(if $(filter --dry-run,$(ARGS)),,-$(MAKE) -k setup EXTRAS="language segmentation corruptions harness")
	@failed=0; $(BIN)/python scripts/reproduce_all.py $(if $(filter file,$(origin SCALE)),scale=$(SCALE)) $(OPTIONS) || failed=$$?; [ $$failed -le 1 ] || exit $$failed; \
	$(if $(SEEDS)$(ARGS)$(filter-out local,$(LAUNCHER)),echo "Tables I.1 to I.3 are left to make reproduce-table_i1 and make bench",$(MEASURE_TIMES) || failed=1); exit $$failed

# SCALE works as for runs. At paper scale Tables I.2 and I.3 are measured on the GPU.
bench_device = $(or $(DEVICE),$(if $(filter paper,$1),cuda,cpu))

# This counts parameters and measures nothing.
reproduce-table_i1: .venv/.stamp
	$(BIN)/python scripts/model_sizes.py scale=$(SCALE)

# This marks Tables I.1 to I.3 as made on this machine.
runs/.bench-%:
	$(MAKE) reproduce-table_i1 SCALE=$*
	$(MAKE) bench DEVICE=$(call bench_device,$*)
	@mkdir -p runs && touch $@

reproduce-table_i2 reproduce-table_i3: reproduce-%:
	$(MAKE) bench TABLES=$* DEVICE=$(call bench_device,$(SCALE))

reproduce-figure_e5: .venv/.stamp-corruptions  # makes mini scale's images

records: .venv/.stamp  ## add the ended runs of all artefacts to results/<scale>/records (SCALE= ARGS="figure2 runs_dir=runs")
	$(BIN)/python scripts/records.py scale=$(SCALE) $(ARGS)

mechanism: .venv/.stamp  ## replay the first steps of AdamCPR's runs with the plain Algorithm 1, 10 minutes (SCALE= ARGS="gpt2")
	$(BIN)/python scripts/mechanism.py scale=$(SCALE) $(ARGS)

report: .venv/.stamp  ## write results/index.html: every claim and artefact on one page (ARGS="runs_dir=runs")
	$(BIN)/python scripts/report.py $(if $(filter file,$(origin SCALE)),,scale=$(SCALE)) $(ARGS)

rebuild: .venv/.stamp  ## make every table, figure and the page from the committed records (SCALE=small)
	$(BIN)/python scripts/rebuild.py scale=$(SCALE) $(ARGS)

readme: .venv/.stamp  ## write the generated parts of README.md, REPRODUCING.md and tasks/*/README.md
	$(BIN)/python scripts/readme.py

prose: .venv/.stamp  ## measure how comments, docstrings and Markdown read (ARGS="scripts docs")
	$(BIN)/python scripts/prose.py $(ARGS)

bench: .venv/.stamp  ## measure Tables I.2 and I.3, and without TABLES= the loader (ROUNDS=15 SHAPES=toy,gpt2s DEVICE=cuda THREADS=2)
	$(BIN)/python scripts/bench/step_times.py $(call given,$(BENCH_OPTIONS))
	$(if $(TABLES)$(REBUILD),,$(BIN)/python scripts/bench/loading.py $(call given,DEVICE THREADS))

check-gpu: .venv/.stamp  ## check a GPU in 12 minutes: kernels, CUDA graphs, same bits, speed, hours (ARGS="kernels speed" DEVICE=cpu)
	$(BIN)/python scripts/check_gpu.py $(if $(DEVICE),device=$(DEVICE)) $(ARGS)

bench-loading: .venv/.stamp  ## images a second of our loader, timm's and the model (ARGS="task=clip device=cuda rounds=30")
	$(BIN)/python scripts/bench/loading.py $(ARGS)

clean:  ## remove caches and build output, but not .venv, runs/ and data/
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

help:  ## this list
	@sed -n 's/^\([a-z%-]*\):[^#]*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

.venv/.stamp: requirements.lock pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo "error: $(or $(PYTHON),Python $(PYTHONS_KNOWN)) is not installed; install one of Python $(PYTHONS_KNOWN), or name it: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "making .venv: 1 of 3, torch $(if $(TORCH_INDEX),from $(TORCH_INDEX),and its CUDA libraries (3 GB to download, 5 GB on disk))"
	$(PYTHON) -m venv .venv
	$(INSTALL) pip==26.3
	$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@echo "making .venv: 2 of 3, requirements.lock"
	$(INSTALL) -r requirements.lock
	@echo "making .venv: 3 of 3, this repository"
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

# Packages that a task or the documentation needs beyond requirements.lock.
.venv/.stamp-%: .venv/.stamp requirements-%.lock
	$(INSTALL) -r requirements-$*.lock
	@touch $@
