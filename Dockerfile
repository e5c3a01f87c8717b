# The image for training on a GPU machine or cluster: CUDA 13.0, Python 3.12, pinned torch and Triton.
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" -t deltalab .
#   docker run --rm --gpus all -v deltalab-runs:/runs deltalab python launch.py -m study=quickstart
#   docker run --rm -v deltalab-runs:/runs deltalab python -m analysis.compare quickstart
FROM nvidia/cuda:13.0.2-runtime-ubuntu24.04

SHELL ["/bin/bash", "-euo", "pipefail", "-c"]

# Triton builds its launcher with a C compiler and Python's headers when a kernel first runs; git tells which commit ran.
# Versions are not pinned here: Ubuntu's archive drops superseded ones.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates gcc git libc6-dev python3.12 python3.12-dev python3.12-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DELTALAB_RUNS=/runs
WORKDIR /opt/deltalab

# Dependencies first: this layer is built again only when these two files change.
COPY pyproject.toml constraints.txt ./
RUN python3.12 -m venv /opt/venv \
    && python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > /tmp/requirements.txt \
    && pip install --no-cache-dir -c constraints.txt -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt

# Installed in place: conf/ and sweeps/ are found beside src/.
COPY LICENSE README.md launch.py ./
COPY src src
COPY conf conf
COPY sweeps sweeps
COPY analysis analysis
COPY results results
RUN pip install --no-cache-dir --no-deps -e . \
    && useradd --create-home --uid 10001 deltalab \
    && install -d -o deltalab -g deltalab /runs

ARG REVISION=unknown
LABEL org.opencontainers.image.title="deltalab" \
      org.opencontainers.image.description="Ablation platform for gated delta-rule language models" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="docker.io/nvidia/cuda:13.0.2-runtime-ubuntu24.04"

VOLUME ["/runs"]
USER deltalab
# The base's entry point prints a banner, which would stand in front of JSON and tables.
ENTRYPOINT []
CMD ["python", "launch.py", "--help"]
