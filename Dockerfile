# syntax=docker/dockerfile:1
# What every node of a cluster needs: Python packages and nothing of our code, which comes with each job.
#
#   docker build -t jasper-ray .                        CUDA 13, the project's versions
#   docker build -t jasper-ray:cuda11 --build-arg BASE=nvidia/cuda:11.8.0-cudnn8-runtime-ubuntu22.04 \
#       --build-arg PYTHON=python3.11 --build-arg TORCH=torch==2.7.1 \
#       --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu118 \
#       --build-arg DALI=nvidia-dali-cuda110 --build-arg DALI_INDEX=https://pypi.nvidia.com .
#                                                       CUDA 11: the last torch there is for it, DALI from NVIDIA's index
#   docker build -t jasper-ray:cpu --build-arg BASE=debian:bookworm-slim .     no CUDA of its own
ARG BASE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04
FROM ${BASE}

ARG PYTHON=python3
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# rsync and SSH: `ray up` copies files. prometheus: metrics of the cluster, on the head. A C compiler and Python's
# headers: Triton builds the launcher of our GPU kernels when it is first used, and on a Xeon those for AMX are compiled.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates curl gcc libc6-dev "${PYTHON}" "${PYTHON}-dev" "${PYTHON}-venv" openssh-client prometheus rsync \
    && rm -rf /var/lib/apt/lists/*

# User 1000, as the cloud's `ubuntu` is: files that `ray up` mounts keep their owner. Ubuntu 24.04 has a user 1000 already.
RUN (id -nu 1000 >/dev/null 2>&1 && userdel --remove "$(id -nu 1000)" || true) \
    && useradd --uid 1000 --create-home --shell /bin/bash ray \
    && mkdir -p /opt/jasper_ray /cache \
    && chown -R ray:ray /opt/jasper_ray /cache
USER 1000
WORKDIR /home/ray
ENV PATH=/opt/jasper_ray/env/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0

# Torch by itself: gigabytes that change once in some months.
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/home/ray/.cache/pip,uid=1000 \
    "${PYTHON}" -m venv /opt/jasper_ray/env \
    && python -m pip install --disable-pip-version-check "${TORCH}" ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"}

# DALI by itself for the same reason.
ARG DALI=nvidia-dali-cuda130==2.4.0
ARG DALI_INDEX=
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/home/ray/.cache/pip,uid=1000 \
    if [ -n "${DALI}" ]; then \
        python -m pip install --disable-pip-version-check "${DALI}" ${DALI_INDEX:+--extra-index-url "${DALI_INDEX}"}; \
    fi

ARG EXTRAS="serve beam flac containers tune"
COPY --chown=ray:ray pyproject.toml constraints.txt clusters/node/requirements.py /opt/jasper_ray/
# hadolint ignore=SC2086
RUN --mount=type=cache,target=/home/ray/.cache/pip,uid=1000 \
    python /opt/jasper_ray/requirements.py ${EXTRAS} --without torch >/tmp/requirements.txt \
    && python -m pip install --disable-pip-version-check \
        -c /opt/jasper_ray/constraints.txt -r /tmp/requirements.txt \
    && python /opt/jasper_ray/requirements.py ${EXTRAS} --without torch --check \
    && rm /tmp/requirements.txt

# `ray up` and Kubernetes give the command.
CMD ["/bin/bash"]
