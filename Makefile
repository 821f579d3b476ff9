# `make run` and `make test` need only Python 3.11 or newer.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin

# One more than the number of cores, since many tests wait for a server.
WORKERS := $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')

# The documents that `make scale` loads, and those of a partition.
DOCUMENTS ?= 145000
PARTITION_DOCUMENTS ?= 40000

.PHONY: help run dev test test-all snapshot test-histories test-long test-image test-chart scale lint docs \
	bench bench-scaling clean

help:  ## List the targets.
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

run: .venv/installed  ## Load the built-in sample and print the tables.
	$(BIN)/aind-etl run

dev: .venv/installed  ## Start the Dagster UI.
	$(BIN)/aind-etl dev

test: .venv/installed-dev  ## Run the tests for a change, a few minutes.
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow and not long"

test-all: .venv/installed-dev  ## Run every test but the longest, with coverage.
	AIND_ETL_TEST_FILTERS=100 $(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not long" --cov --cov-report=term-missing:skip-covered

snapshot: .venv/installed-dev  ## Write tests/snapshot.json after an intended change of names or paths.
	AIND_ETL_WRITE_SNAPSHOT=1 $(BIN)/pytest -q tests/test_snapshot.py

test-histories: .venv/installed-dev  ## Run thousands of steps of random histories, on MongoDB and on a gateway.
	AIND_ETL_TEST_STEPS=2000 $(BIN)/pytest -n auto tests/changelog/test_any_history.py

test-long: .venv/installed-dev  ## Run the longest tests: long histories, a million ids, the Dagster UI.
	AIND_ETL_TEST_STEPS=5000 AIND_ETL_TEST_IDS=1000000 AIND_ETL_TEST_FILTERS=3000 \
		AIND_ETL_TEST_PUBLISH_SECONDS=60 \
		$(BIN)/pytest -n auto --dist loadgroup tests/changelog/test_any_history.py tests/changelog/test_many_ids.py \
		tests/contract/test_engines.py tests/client/test_document_filters.py tests/client/test_warehouse_client.py \
		tests/orchestration/test_containers.py tests/orchestration/test_page.py tests/orchestration/test_celery.py
	AIND_ETL_TEST_LONGER=50 $(BIN)/pytest -n auto --dist loadgroup tests/changelog/test_compaction.py
	$(BIN)/pytest -n auto --dist loadgroup -m long tests/lake/test_crash_safety.py tests/lake/test_resharding.py

scale: .venv/installed-dev  ## Load 145,000 documents with Celery workers while servers are killed.
	AIND_ETL_TEST_DOCUMENTS=$(DOCUMENTS) AIND_ETL_TEST_PARTITION_DOCUMENTS=$(PARTITION_DOCUMENTS) \
		$(BIN)/pytest -n 0 -m long -k whatever_goes_wrong --durations=3 tests/orchestration/test_celery.py

test-image: .venv/installed-dev  ## Run the image's build steps without containers.
	AIND_ETL_TEST_IMAGE=1 $(BIN)/pytest tests/orchestration/test_containers.py -k build_steps_of_the_image

test-chart: .venv/installed-dev  ## Check the values for Kubernetes with helm and Dagster's own chart.
	rm -rf .chart
	helm pull dagster/dagster --version 1.13.27 --untar --untardir .chart
	helm lint .chart/dagster --values docker/helm-values.yaml
	helm template dagster .chart/dagster --values docker/helm-values.yaml > /dev/null
	AIND_ETL_TEST_HELM_CHART=.chart/dagster $(BIN)/pytest tests/orchestration/test_kubernetes.py

lint: .venv/installed-dev  ## Run the linters and the type checker.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/shellcheck docker/entrypoint.sh
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml

docs: .venv/installed-dev  ## Write the generated pages of docs/.
	$(BIN)/python docs/renew_dictionary.py
	$(BIN)/python docs/renew_context.py
	$(BIN)/python docs/renew_cookbook.py
	$(BIN)/python docs/renew_notebooks.py

bench: .venv/installed-dev bench/.venv/installed  ## Compare aind-etl with the tools that people would otherwise use.
	$(BIN)/python bench/compare.py $(BENCH)

bench-scaling: .venv/installed-dev bench/.venv/installed  ## Measure how cost grows with size.
	$(BIN)/python bench/scaling.py $(BENCH)

clean:  ## Remove the environment, the lake and Dagster's history.
	rm -rf .venv .chart lake .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find dagster_home -mindepth 1 ! -name dagster.yaml -delete

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found. Name one: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'

bench/.venv/installed: bench/requirements.txt
	$(PYTHON) -m venv bench/.venv
	bench/.venv/bin/pip install --quiet --requirement bench/requirements.txt
	@touch $@

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[pipeline]'
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --group dev
	@touch $@
