# syntax=docker/dockerfile:1
# The service: every worker, beat and the command line. One image; compose says which process it runs.

FROM python:3.12-slim AS build

RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/venv && /opt/venv/bin/pip install pip==26.3

WORKDIR /app
COPY constraints.txt ./

# Annoy's own build takes -march=native, which dies with SIGILL on a host older than the one that built the image.
# x86-64-v3 (AVX2) is every server since about 2015 and as fast; for anything older build with
# --build-arg ANNOY_MARCH=x86-64. Without -ffast-math, see the Makefile.
ARG TARGETARCH=amd64
ARG ANNOY_MARCH=x86-64-v3
RUN if [ "$TARGETARCH" = amd64 ]; then march="-march=$ANNOY_MARCH,"; fi \
    && ANNOY_COMPILER_ARGS="${march:-}-O3,-std=c++14,-fpermissive,-DANNOYLIB_MULTITHREADED_BUILD" \
        /opt/venv/bin/pip install --no-cache-dir --no-binary annoy -c constraints.txt annoy

# What the service needs, without its code (empty files stand in for it): this layer lasts until a version changes.
COPY pyproject.toml ./
COPY worker/pyproject.toml worker/
ENV PIP_CACHE_DIR=/var/cache/pip
RUN --mount=type=cache,target=/var/cache/pip \
    mkdir producer && touch producer/__init__.py README.md LICENSE \
    && /opt/venv/bin/pip install -c constraints.txt -e '.[http,tracing]' -e 'worker[stores]'


FROM python:3.12-slim

# A fixed number, so that a volume's files have the same owner in every version.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent lookalike \
    && install --directory --owner lookalike --group lookalike /data /pictures

COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY pyproject.toml LICENSE ./
COPY producer producer
COPY db db
COPY migrations migrations
COPY worker worker
RUN python -m compileall -q producer db migrations worker

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    LOOKALIKE_DATA_DIR=/data \
    LOOKALIKE_IMAGE_ROOTS=/pictures \
    TORCH_HOME=/data/torch

USER 10001:10001
# Each process has a check of its own, in docker-compose.yml.
HEALTHCHECK NONE
ENTRYPOINT ["lookalike-worker"]
CMD ["--help"]
