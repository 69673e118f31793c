# NVIDIA Triton Inference Server with the models of this repository baked in:
#
#   docker build --file deploy/triton.Dockerfile --tag ghcr.io/dermbatch/triton:0.1.0 .
#
# 24.10 is server 2.51.0, the same that the local stack runs and the tests start. Blackwell GPUs need 25.01 or newer:
#   --build-arg TRITON_IMAGE=nvcr.io/nvidia/tritonserver:25.01-py3
# Base images are named by exact tags; pass one with @sha256:... where builds must be the same for ever.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:24.10-py3
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS models
COPY model_repository /models
COPY deploy/check_models.py /check_models.py
RUN python /check_models.py /models

FROM ${TRITON_IMAGE}
COPY --from=models /models /models
ENV HOME=/tmp
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=6 \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8000/v2/health/ready"]
CMD ["tritonserver", "--model-repository=/models", "--exit-timeout-secs=30"]
