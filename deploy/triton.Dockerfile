# NVIDIA Triton Inference Server with the models of this repository baked in:
#
#   docker build --file deploy/triton.Dockerfile --tag ghcr.io/dermbatch/triton:0.2.0 .
#
# 25.07 is server 2.59.0, the first release without the security faults that NVIDIA published in August 2025; take a
# later one as you like. This image was NOT run by this project: its tests, and the local stack, run server 2.51.0, which
# answers on the loopback address and only who has its key. Models keep to what both have. `make compose-check` builds
# it on that server, too.
# Base images are named by exact tags; pass one with @sha256:... where builds must be the same for ever.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:25.07-py3
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
ARG VERSION=0.2.0
ARG REVISION=
LABEL org.opencontainers.image.title="Dermbatch Triton" \
      org.opencontainers.image.description="Triton Inference Server with the models of Dermbatch" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/dermbatch/dermbatch" \
      org.opencontainers.image.documentation="https://github.com/dermbatch/dermbatch/tree/main/docs" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
