# The tasks of this repository; `make` alone lists them. Every build is of the whole workspace, so that all builds share
# one compilation of the dependencies.

CARGO ?= cargo
# Cargo's target directory.
TARGET ?= $(or $(CARGO_TARGET_DIR),target)
# The number of the simulator's seeds.
SEEDS ?= 50
# Mistakes to plant in the code that the simulator must find: all, one by its name, or a part such as 0/5.
SABOTAGE ?=
# Where the demo runs: local, or kube for the Kubernetes of KUBECONFIG or else a throwaway one (as root, see
# tests/devkube).
CLUSTER ?= local
# The number of fleets that bench-operator creates.
FLEETS ?= 1000
# The fuzz targets to run, all if empty, and for how many seconds each.
TARGETS ?=
SECONDS_EACH ?= 60
# Additional arguments for the demo and the benchmarks, such as ARGS='--only takeover --trials 5'.
ARGS ?=

# no: `make test` skips the tests that need root and Kubernetes.
KUBE ?= yes

# The parts of `make e2e`: the life of a fleet on Kubernetes (minutes), a crowd of agents, day two (some more), and the
# example in examples/review.
E2E ?= life crowd day_two review

# Installs what is missing on this machine for the parts of the project that follow.
SETUP := bash tests/setup
# A prefix for commands that start other processes: whatever ends the command, or make, also ends those.
CONTAINED := $(if $(shell command -v setpriv),setpriv --pdeathsig TERM) bash tests/contained

# The name of the image in pods, and the target for which its programs are built, which links them statically.
IMAGE ?= robeing:0.1.0
# Additional names of the image: those in the classic manifests.
IMAGE_ALSO ?= robeing:latest robeing:coordinator robeing:worker
IMAGE_TARGET ?= $(shell uname -m)-unknown-linux-musl
IMAGE_PROGRAMS := robeing-operator robeing-agent robeing
# The profile with which they are built: image, for use; or trial, which builds in half the time and serves tests alone.
IMAGE_PROFILE ?= image
# Init containers copy from the image, and every node pulls it, so its size is limited.
IMAGE_MOST_BYTES := $(if $(filter image,$(IMAGE_PROFILE)),55000000,400000000)
IMAGE_BUILT := $(TARGET)/$(IMAGE_TARGET)/$(IMAGE_PROFILE)

.DEFAULT_GOAL := help
.PHONY: help build fmt fmt-check lint test python bench-python demo bench bench-operator sim fuzz crds image e2e docs-check ci

help: ## List all targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the programs for use: target/release/robeing and robeing-agent
	$(CARGO) build --release --workspace --bin robeing --bin robeing-agent

fmt: ## Format all code
	$(CARGO) fmt --all

fmt-check: ## Fail if code is not formatted
	$(CARGO) fmt --all --check

lint: ## Check all code with clippy (warnings are errors), the dependency rules and the style
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --workspace --test kubernetes -- -D warnings
	$(CARGO) build --workspace --bin robeing-walls
	$(TARGET)/debug/robeing-walls

test: ## Install what is missing, run all tests even if some fail; KUBE=no: without those that need root and Kubernetes
	@CARGO='$(CARGO)' CARGO_TARGET_DIR='$(TARGET)' KUBE='$(KUBE)' $(CONTAINED) bash tests/run

python: ## Check and test the Python SDK in sdk/python, also with a real fleet; ARGS='-k name' selects tests
	@$(SETUP) build python
	$(CARGO) build --workspace --bin robeing --bin robeing-agent
	ROBEING_BIN='$(abspath $(TARGET))/debug/robeing' $(CONTAINED) bash sdk/python/tools/check $(ARGS)

bench-python: ## Compare a handler by the Python SDK with one over the raw stubs; ARGS='--help' lists the options
	@$(SETUP) build python
	$(CARGO) build --release --workspace --bin robeing --bin robeing-agent
	$(CONTAINED) bash sdk/python/tools/in-venv python -m bench.compare $(ARGS)
	$(CONTAINED) bash sdk/python/tools/in-venv python -m bench.compare --dev '$(abspath $(TARGET))/release' $(ARGS)

demo: $(if $(filter kube,$(CLUSTER)),image) ## Run 500 tasks while an agent and the leader are killed, check all; CLUSTER=kube: on Kubernetes
	@$(SETUP) build $(filter kube,$(CLUSTER))
	$(CARGO) build --workspace --bin robeing-agent --bin robeing-demo $(if $(filter kube,$(CLUSTER)),--bin devkube)
	$(if $(filter kube,$(CLUSTER)),$(CONTAINED) $(TARGET)/debug/devkube build)
	$(CONTAINED) $(TARGET)/debug/robeing-demo --cluster $(CLUSTER) $(ARGS)

bench: ## Measure throughput, latency, cost and takeover times on this machine; ARGS='--help' lists the options
	$(CARGO) build --release --workspace --bin robeing-agent --bin robeing-bench
	$(TARGET)/release/robeing-bench --data $(TARGET)/bench $(ARGS)

bench-operator: ## Measure the operator's cost with FLEETS fleets and a throwaway API server; as root, see tests/devkube
	@$(SETUP) build kube
	$(CARGO) build --release --workspace --bin robeing-operator
	$(CARGO) build --workspace --bin robeing-bench-operator --bin devkube
	$(CONTAINED) $(TARGET)/debug/devkube build
	$(CONTAINED) $(TARGET)/debug/robeing-bench-operator --operator $(TARGET)/release/robeing-operator --fleets $(FLEETS) $(ARGS)

sim: ## Run SEEDS simulated fleets under faults and check their promises; SABOTAGE=all: find planted mistakes
	$(CARGO) build --workspace --bin robeing-sim
	$(TARGET)/debug/robeing-sim --seeds $(SEEDS) $(if $(SABOTAGE),--sabotage $(SABOTAGE))

# A build of its own, with coverage; see fuzz/run. SECONDS is a variable of the shell, so it is not called that.
fuzz: ## Fuzz all parsers of bytes from others for SECONDS_EACH=60 each; TARGETS='policy session': only these
	@$(SETUP) build
	@CARGO='$(CARGO)' CARGO_TARGET_DIR='$(TARGET)' TARGETS='$(TARGETS)' SECONDS_EACH='$(SECONDS_EACH)' \
	  $(CONTAINED) bash fuzz/run

crds: ## Generate crds/robeingclusters.yaml, the chart's copy and docs/reference.md from the types
	$(CARGO) build --workspace --bin crdgen
	$(TARGET)/debug/crdgen > crds/robeingclusters.yaml.new
	mv crds/robeingclusters.yaml.new crds/robeingclusters.yaml
	cp crds/robeingclusters.yaml charts/robeing-crds/files/robeingclusters.yaml
	$(TARGET)/debug/crdgen --reference > docs/reference.md.new
	mv docs/reference.md.new docs/reference.md

# The image has the same programs, user and entrypoint as the Dockerfile's, but not its labels and its empty
# /var/lib/robeing. It is built package by package, because a build of the whole workspace includes features that only
# tests need.
image: ## Build the image without Docker: target/image/robeing.tar, an OCI archive called IMAGE
	@$(SETUP) build image
	CC_$(subst -,_,$(IMAGE_TARGET))=musl-gcc $(CARGO) build --locked --profile $(IMAGE_PROFILE) --target $(IMAGE_TARGET) \
	  $(foreach program,$(IMAGE_PROGRAMS),--package $(program) --bin $(program))
	mkdir -p $(TARGET)/image
	$(CARGO) build --workspace --bin devkube
	$(TARGET)/debug/devkube image $(foreach name,$(IMAGE) $(IMAGE_ALSO),--name $(name)) --output $(TARGET)/image/robeing.tar \
	  $(foreach program,$(IMAGE_PROGRAMS),--file $(IMAGE_BUILT)/$(program):/$(program):0755) \
	  --user 65532:65532 --entrypoint /robeing-agent
	@size=$$(stat --format %s $(TARGET)/image/robeing.tar); echo "$(TARGET)/image/robeing.tar: $$size bytes"; \
	  if [ $$size -gt $(IMAGE_MOST_BYTES) ]; then echo "that is more than $(IMAGE_MOST_BYTES)"; exit 1; fi

e2e: image ## Install, use, scale and upgrade a fleet on a real Kubernetes, with faults; as root, see tests/devkube
	@$(SETUP) build kube
	$(CARGO) build --workspace --bins
	$(CONTAINED) $(TARGET)/debug/devkube build
	for suite in $(E2E); do $(CONTAINED) $(CARGO) test --workspace --test kubernetes -- --nocapture "$$suite::" || exit 1; done

docs-check: ## Build the reference of all crates; a broken link is an error
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps

ci: ## Run what CI runs, installing what is missing
	bash .ci/run
