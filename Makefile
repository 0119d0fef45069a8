# The front door: every target is one command that people and CI use alike. 'make help' lists them.
SHELL := /bin/bash
JOBS ?= $(shell nproc)
PRESET ?= release
BUILD := build/$(PRESET)
PYTHON := .venv/bin/python
# MPI started by mpirun on one machine: more ranks than cores, and root in containers, are fine.
export OMPI_ALLOW_RUN_AS_ROOT ?= 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM ?= 1
export OMPI_MCA_rmaps_base_oversubscribe ?= 1
export OMPI_MCA_mpi_yield_when_idle ?= 1
# Shared memory alone, without a search for networks, which takes longer than most tests.
export OMPI_MCA_pml ?= ob1
export OMPI_MCA_btl ?= self,vader
SOURCES = $(shell git ls-files -co --exclude-standard 'src/*.cpp' 'src/*.hpp' 'include/*.hpp' 'tests/*.cpp' 'tests/*.hpp' 'bench/*.cpp' 'src/*.cu' 'src/*.cuh')

.DEFAULT_GOAL := build
.PHONY: help bundle deps configure build demo study test test-all test-asan bench plots quality lint format tidy clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  make %-10s  %s\n", $$1, $$2}'

deps: ## install packages and the Python environment (no-op when all is there)
	@tools/deps.sh

configure: deps
	@[ -f $(BUILD)/build.ninja ] || cmake --preset $(PRESET)

build: configure ## build ./llmft
	@cmake --build $(BUILD) -j $(JOBS) --target llmft_exe
	@ln -sf $(BUILD)/llmft llmft

demo: build ## the whole path on this machine in a few minutes: preprocess, train, tables, plots
	@tools/demo.sh

study: build ## precisions, strategies, numbers of GPUs, LoRA and full on this machine (docs/slurm.md: settings)
	@tools/study.sh

test: build ## build and run the tests (under 10 minutes on 2 cores)
	@cmake --build $(BUILD) -j $(JOBS)
	@ctest --test-dir $(BUILD) --output-on-failure -LE slow -j $(JOBS)

test-all: build ## the tests and those labelled slow
	@cmake --build $(BUILD) -j $(JOBS)
	@ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)

test-asan: deps ## the unit tests under address and undefined-behaviour sanitizers
	@[ -f build/asan/build.ninja ] || cmake --preset asan
	@cmake --build build/asan -j $(JOBS)
	@ASAN_OPTIONS=detect_leaks=0 ctest --test-dir build/asan --output-on-failure -LE 'slow|cli|slurm' -E mpi

bench: deps ## build and run the benchmarks
	@cmake --preset $(PRESET) -DLLMFT_BENCH=ON
	@cmake --build $(BUILD) -j $(JOBS)
	@for b in $(BUILD)/bench/bench_*; do $$b || exit 1; done

plots: deps ## draw the plots from results/benchmarks.csv and runs/ into results/
	@$(PYTHON) postprocess/plots.py --benchmarks results/benchmarks.csv --runs runs --out results

quality: build ## is fine-tuning worth it in every precision? trains, evaluates and judges the tiny model: minutes on 2 cores
	@$(PYTHON) tools/quality.py

.PHONY: report
MEASURED ?= docs/measured
OUT ?= docs
report: deps ## the report of docs/measured (or MEASURED=results RUNS=runs OUT=results/report; PDF=1 for PDFs too)
	@$(PYTHON) postprocess/report.py --measured $(MEASURED) $(if $(RUNS),--runs $(RUNS)) --out $(OUT) $(if $(PDF),--pdf)

bundle: build ## one relocatable folder (program, libraries, MPI runtime) for nodes that lack packages
	@tools/bundle.sh $(BUILD) bundle

lint: deps ## formatting, include direction, shell scripts
	@clang-format --dry-run --Werror $(SOURCES)
	@$(PYTHON) tools/check_layers.py
	@shellcheck -x tools/*.sh slurm/*.sh

tidy: deps ## clang-tidy over every file (slow)
	@[ -f build/tidy/build.ninja ] || cmake --preset tidy
	@cmake --build build/tidy -j $(JOBS)

format: deps ## format the C++ sources
	@clang-format -i $(SOURCES)

clean: ## delete the build folders and ./llmft
	@rm -rf build llmft
