# Everything runs in .venv, which `make setup` makes with pip (torch first: the pinned CPU or CUDA build stays).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
TRITON_TESTS := tests/model/test_ctc_triton.py tests/model/test_norm_triton.py tests/model/test_residual_triton.py tests/model/test_triton_trial.py \
	tests/model/test_fourier.py tests/training/test_step.py tests/training/test_novograd_triton.py \
	tests/training/test_ema.py tests/inference/test_epilogue.py tests/inference/test_fused.py tests/inference/test_split.py

.PHONY: setup demo test test-slow test-realpeer test-nodes test-triton nodes-down check lint bench bench-peers load serve monitor clean chaos

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
		|| { echo "jasper_ray needs Python 3.11 or 3.12, $(PYTHON) is $$($(PYTHON) -V). Set PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: setup  ## corpus, shards, training, evaluation, serving: everything once, small (runs/demo)
	$(BIN)/python -m jobs.demo

serve: setup  ## serve the demo's bundle until Ctrl-C
	$(BIN)/python -m jobs.serve runs/demo/bundle --port 8000

monitor: setup  ## Prometheus (and Grafana where installed) against this machine's Ray cluster, until Ctrl-C
	$(BIN)/python -m jobs.monitor

test: setup  ## tests; one that hangs for ten minutes ends them, with the stack of every thread
	$(BIN)/python -m pytest -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true

test-slow: setup  ## tests that take minutes
	$(BIN)/python -m pytest -m slow

test-realpeer: setup  ## with what PyPI lacks: apt-get install radosgw ceph-mon ceph-osd ceph-common prometheus prometheus-alertmanager nodejs npm buildah debootstrap (the last two as root)
	$(BIN)/python -m pytest -m realpeer

test-nodes: setup  ## on machines out of namespaces: root, apt-get install iproute2 iptables openssh-server openssh-client rsync redis-server
	$(BIN)/python -m pytest -m nodes

test-triton: setup  ## our kernels by Triton's interpreter; installs triton (some 190 MB), which only torch's CUDA builds bring along
	$(BIN)/python -m pip install --quiet --disable-pip-version-check triton==3.7.1
	$(BIN)/python -m pytest $(TRITON_TESTS)

chaos: setup  ## one training run through every fault beside an undisturbed one, 20 to 30 minutes; needs what test-nodes needs
	$(BIN)/python tests/nodes/chaos.py --write docs/benchmarks

nodes-down: setup  ## take away the machines that a killed test left
	$(BIN)/python tests/nodes/machines.py down

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

load: setup  ## a small model under load and faults, about 9 minutes
	$(BIN)/python -m jobs.benchmark serve --load quartznet5x5

bench: setup  ## the benchmark book, beside the last one: 5 to 10 minutes; docs/benchmarks and README.md get the result
	$(BIN)/python -m jobs.benchmark book --readme README.md

bench-peers: $(PEERS)/.installed  ## loaders beside WebDataset, mosaicml-streaming, lhotse and NVIDIA's DALI graph
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m jobs.benchmark loader --write docs/benchmarks

# Torch first, and held by a constraint: a peer may not bring another one. mosaicml-streaming without its clients of
# clouds, its limits on numpy, and torchvision, which would: a stub has its place (benchmarks/torchvision_stub).
$(PEERS)/.installed: PIP := $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check
$(PEERS)/.installed: pyproject.toml constraints.txt benchmarks/peers.txt benchmarks/peers-constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PIP) 'torch==2.13.0'
	$(PIP) -c constraints.txt -c benchmarks/peers-constraints.txt -e '.[dali,flac]' -r benchmarks/peers.txt
	$(PIP) --no-deps -c benchmarks/peers-constraints.txt mosaicml-streaming ./benchmarks/torchvision_stub
	$(PEERS)/bin/python -c 'import lhotse, streaming, webdataset'
	@touch $@

clean:
	rm -rf runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
