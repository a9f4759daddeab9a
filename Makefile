# Every target does the set-up it needs; `make` alone lists them.
#
#   PYTHON=python3.12     another interpreter (3.11 or later)
#   DEMO_ARGS, TEST_ARGS, BENCH_ARGS     passed on to the command behind the target
#   TEST_PROCESSES=2      share the tests of `make test` among processes
#   FAULT_CASES=3000     how many cases of `make stress`

SHELL := /bin/sh
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help
FAULT_CASES ?= 3000
.DELETE_ON_ERROR:

BIN := .venv/bin
# A stamp each, so that the demo does not wait for linters and the documentation's tools, nor the linters for torch.
RUNTIME := .venv/.runtime-stamp
DEV := .venv/.dev-stamp
LOADERS := .venv/.loaders-stamp
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Nobody else has compiled what is installed to be edited, and without it each process would: 0.3 s of CPU per mount.
export PYTHONDONTWRITEBYTECODE :=

# Recursive on purpose: on a bare machine Python is there only once `setup` has run. `python3` and then the names with
# a version, because a distribution may ship 3.11 beside an older default.
is_recent = -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
find_python = for p in python3 python3.14 python3.13 python3.12 python3.11; do $$p $(is_recent) && { echo $$p; break; }; done
PYTHON ?= $(shell $(find_python))

# A mount test that cannot run is skipped with its reason; in CI that is a failure.
ifeq ($(CI),true)
export TIGRISMOUNT_REQUIRE_FUSE ?= 1
endif

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r target text; do \
	    printf '%-18s %s\n' "$$target" "$$text"; done

## Set-up

# Each need is probed for itself, so that other distributions and hand-made installations pass without apt.
.PHONY: setup
setup: ## install the system packages that are missing (apt-get, sudo when not root)
	@missing=; \
	python='$(PYTHON)'; \
	if [ -z "$$python" ]; then command -v python3 >/dev/null && { \
	    echo "make: this $$(python3 --version) is too old: install Python 3.11 or later, or name one with PYTHON=" >&2; \
	    exit 1; }; python=python3; missing="python3"; fi; \
	command -v fusermount3 >/dev/null || missing="$$missing fuse3"; \
	command -v pkg-config >/dev/null || missing="$$missing pkg-config"; \
	pkg-config --exists fuse3 2>/dev/null || missing="$$missing libfuse3-dev"; \
	command -v gcc >/dev/null || missing="$$missing gcc"; \
	[ -e /usr/include/limits.h ] || missing="$$missing libc6-dev"; \
	include=$$($$python -c 'import sysconfig; print(sysconfig.get_path("include"))' 2>/dev/null); \
	[ -e "$$include/Python.h" ] || missing="$$missing $${python##*/}-dev"; \
	$$python -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing $${python##*/}-venv"; \
	[ -n "$$missing" ] || exit 0; \
	command -v apt-get >/dev/null || { \
	    echo "make: please install what these Debian packages hold (there is no apt-get here):$$missing" >&2; exit 1; }; \
	sudo=; if [ "$$(id -u)" -ne 0 ]; then command -v sudo >/dev/null || { \
	    echo "make: run this as root, then make again: apt-get install$$missing" >&2; exit 1; }; sudo=sudo; fi; \
	echo "Installing system packages:$$missing"; \
	$$sudo apt-get -qq update && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $$missing >/dev/null

.PHONY: venv
venv: $(DEV) ## make .venv with tigrismount (editable) and everything to work on it

$(RUNTIME): pyproject.toml | setup
	@echo "Installing tigrismount into .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' # the first with --group
	@$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

$(DEV): $(RUNTIME)
	@echo "Installing the development tools into .venv"
	@$(BIN)/python -m pip install --quiet --editable '.[demo]' --group dev
	@touch $@

$(LOADERS): $(DEV)
	@echo "Installing torch, transformers and gguf into .venv: real loaders, for the tests"
	@$(BIN)/python -m pip install --quiet --group loaders
	@touch $@

## Use

.PHONY: demo
demo: $(RUNTIME) ## the main job on an embedded S3 server and a generated model; no cloud account
	@$(BIN)/tigrismount demo $(DEMO_ARGS)

.PHONY: bench
bench: $(RUNTIME) ## the mount beside a plain download and the raw disk, as ratios (BENCH_ARGS=--quick)
	@$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

.PHONY: bench-tail
bench-tail: $(RUNTIME) ## what one slow connection in twenty costs
	@$(BIN)/python -m benchmarks.tail $(BENCH_ARGS)

.PHONY: bench-names
bench-names: $(RUNTIME) ## ls -l of 100,000 names, find and du over a million: what they take and what they leave
	@$(BIN)/python -m benchmarks.metadata $(BENCH_ARGS)

.PHONY: bench-stages
bench-stages: $(RUNTIME) ## what each stage of a load costs by itself, in one worker and in two
	@$(BIN)/python -m benchmarks.stages $(BENCH_ARGS)

.PHONY: bench-fleet
bench-fleet: $(RUNTIME) ## what up to a thousand nodes do to a store, simulated in about a minute
	@$(BIN)/python -m benchmarks.fleet $(BENCH_ARGS)

.PHONY: bench-knee
bench-knee: $(RUNTIME) ## how near the GETs in flight that it finds come to the best number, simulated in a minute
	@$(BIN)/python -m benchmarks.knee $(BENCH_ARGS)

.PHONY: bench-knee-real
bench-knee-real: $(RUNTIME) ## the same with a real client and a server that paces it, in four minutes
	@$(BIN)/python -m benchmarks.knee_real $(BENCH_ARGS)

## Tests and checks

# Where a test rightly takes minutes: the dump of a busy interpreter's stacks can bring it down.
LONG := -o faulthandler_timeout=0 --timeout

# All that mounts stays in one of them; tests/conftest.py says which that is.
PROCESSES = $(if $(TEST_PROCESSES),--numprocesses=$(TEST_PROCESSES) --dist=loadscope)

.PHONY: test
test: $(LOADERS) ## the tests: real S3 server, real mounts, real loaders; those that take minutes apart
	@$(BIN)/python -m pytest -m 'not slow' $(PROCESSES) $(TEST_ARGS)

.PHONY: test-slow
test-slow: $(LOADERS) ## the others: the same claims at full size, for a quarter of an hour
	@$(BIN)/python -m pytest -m 'slow and not booted and not image' $(TEST_ARGS)

.PHONY: test-fast
test-fast: $(DEV) ## the tests that mount nothing
	@$(BIN)/python -m pytest -m 'not fuse and not slow' $(TEST_ARGS)

.PHONY: stress
stress: $(DEV) ## ten minutes of 200 readers, then an hour of thousands of cases of misbehaving stores (FAULT_CASES=)
	@TIGRISMOUNT_STRESS_S=600 TIGRISMOUNT_STRESS_PROCESSES=200 TIGRISMOUNT_FAULT_CASES=$(FAULT_CASES) \
	    $(BIN)/python -m pytest -s $(LONG)=7200 tests/stress tests/faults tests/e2e/test_faults.py $(TEST_ARGS)

SOAK_MINUTES ?= 30

.PHONY: soak
soak: $(DEV) ## half an hour of use by three mounts: nothing may grow (SOAK_MINUTES=, CSV and plot in build/soak)
	@SOAK_MINUTES=$(SOAK_MINUTES) SOAK_OUT=build/soak $(BIN)/python -m pytest -s -o faulthandler_timeout=0 \
	    tests/stress/test_soak.py $(TEST_ARGS)

.PHONY: fuzz
fuzz: $(LOADERS) ## damaged and made-up files, answers, flags and records for the parsers, for minutes (FUZZ_EXAMPLES=20000)
	@$(BIN)/python -m pytest tests/formats tests/fuzz -m hypothesis --hypothesis-profile=fuzz $(LONG)=0 $(TEST_ARGS)

# A Debian with systemd in a container; made once, in about a minute, with packages from the network.
SYSTEMD_ROOT := build/systemd-root.tar

$(SYSTEMD_ROOT):
	@command -v mmdebstrap >/dev/null && command -v systemd-nspawn >/dev/null || { \
	    echo "make: please install mmdebstrap and systemd-container" >&2; exit 1; }
	@mkdir -p $(@D)
	@mmdebstrap --quiet --variant=apt --include=systemd,systemd-sysv,dbus,python3,fuse3,libfuse3-3,procps,util-linux \
	    bookworm $@

.PHONY: test-systemd
test-systemd: $(DEV) $(SYSTEMD_ROOT) ## the units in a booted systemd (root, systemd-nspawn, mmdebstrap)
	@TIGRISMOUNT_TEST_ROOT=$(abspath $(SYSTEMD_ROOT)) $(BIN)/python -m pytest tests/systemd $(TEST_ARGS)

# A plain Debian with Python, for the image to be built on; made once, in about a minute, with packages from the network.
IMAGE_BASE := build/image/base.tar

$(IMAGE_BASE): | setup-image
	@mkdir -p $(@D)
	@mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates bookworm $@

.PHONY: setup-image
setup-image:
	@missing=; for need in podman buildah runc mmdebstrap; do \
	    command -v $$need >/dev/null || missing="$$missing $$need"; done; \
	[ -n "$$missing" ] || exit 0; \
	command -v apt-get >/dev/null && [ "$$(id -u)" -eq 0 ] || { \
	    echo "make: please install:$$missing" >&2; exit 1; }; \
	echo "Installing system packages:$$missing"; \
	apt-get -qq update && \
	DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $$missing >/dev/null

.PHONY: test-image
test-image: $(DEV) $(IMAGE_BASE) | setup-image ## build the image and run it in containers (root, podman, buildah)
	@TIGRISMOUNT_TEST_BASE=$(abspath $(IMAGE_BASE)) TIGRISMOUNT_TEST_IMAGES=$(abspath $(dir $(IMAGE_BASE))) \
	    $(BIN)/python -m pytest tests/image $(TEST_ARGS)

.PHONY: check
check: fmt-check lint imports types licences manifests docs ## all but the tests: format, lint, types, manifests, licences, documentation

.PHONY: fmt
fmt: $(DEV) ## format the code
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

.PHONY: fmt-check
fmt-check: $(DEV)
	@$(BIN)/ruff format --check --quiet . || { echo "make: not formatted (see above): run make fmt" >&2; exit 1; }

.PHONY: lint
lint: $(DEV) ## ruff, and hadolint for the Dockerfile
	@$(BIN)/ruff check --quiet .
	@$(BIN)/hadolint Dockerfile

.PHONY: imports
imports: $(DEV) ## the layers: calls go down, never up
	@report=$$($(BIN)/lint-imports) || { echo "$$report"; exit 1; }; echo "$$report" | tail -n 1

.PHONY: types
types: $(DEV) ## mypy --strict
	@$(BIN)/mypy -p tigrismount -p benchmarks
	@$(BIN)/mypy examples/*/*.py

.PHONY: manifests
manifests: $(DEV) ## what is in examples/kubernetes, held against Kubernetes' schemas and our own command line
	@$(BIN)/python -m pytest -q tests/kubernetes

.PHONY: licences
licences: $(DEV) ## the licence and the pin of every package that an installation runs
	@$(BIN)/python docs/audit_dependencies.py >/dev/null

.PHONY: audit
audit: $(DEV) ## known faults of those packages, by pip-audit; needs a network with its databases
	@$(BIN)/python -m pip install --quiet pip-audit
	@report=$$($(BIN)/pip-audit --strict --progress-spinner=off --requirement constraints.txt --no-deps --disable-pip 2>&1) && \
	    { echo "$$report" | tail -n 1; exit 0; }; \
	case "$$report" in \
	    *ConnectionError* | *"could not be audited"* | *"Could not connect"*) \
	        echo "make: no fault was looked for: https://pypi.org/pypi/ does not answer here with what is known of" \
	            "packages; run make audit where it does" >&2 ;; \
	    *) echo "$$report" >&2 ;; \
	esac; exit 1

.PHONY: docs
docs: $(DEV) ## build the documentation; a warning is an error
	@$(BIN)/python -m sphinx -n -W --keep-going -q -b html docs docs/_build/html
	@echo "Documentation: docs/_build/html/index.html"

.PHONY: reference
reference: $(DEV) ## rewrite the reference pages that are made from the code
	@$(BIN)/python docs/generate_reference.py

.PHONY: proto
proto: $(DEV) ## rewrite the Python that is made from .proto files
	@$(BIN)/python -m tigrismount.testing.protobuf

.PHONY: dist
dist: $(DEV) ## the sdist and the wheel, in dist/
	@$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	@ls dist/*

# Where the sources are gone, what the wheel lacks is missed. Packaging and the documentation are about the sources.
WHEEL_TREE := build/wheel

.PHONY: test-wheel
test-wheel: dist ## the tests on the installed wheel, in a tree without the sources
	@rm -rf $(WHEEL_TREE) && mkdir -p $(WHEEL_TREE)
	@cp -r $$(git ls-files | cut -d/ -f1 | sort -u | grep -vx tigrismount) $(WHEEL_TREE)
	@$(PYTHON) -m venv $(WHEEL_TREE)/.venv
	@cd $(WHEEL_TREE) && .venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1' && \
	    .venv/bin/python -m pip install --quiet "$$(echo $(CURDIR)/dist/*.whl)[csi,demo,plot]" --group test && \
	    .venv/bin/python -m pytest -m 'not slow' --ignore tests/packaging --ignore tests/docs $(TEST_ARGS)

.PHONY: release-check
release-check: $(DEV) ## does the tag of this commit agree with its version, changelog and dist/?
	@$(BIN)/python docs/check_release.py && echo "Everything agrees"

.PHONY: clean
clean: ## remove the virtual environment and everything generated
	@rm -rf .venv build dist ./*.egg-info docs/_build benchmarks/results \
	    .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
