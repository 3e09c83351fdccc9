# Two images of one source tree:
#   docker build --target api .      API, migrations and reconciler; no torch
#   docker build --target worker .   the same, plus what distils, on CPU or GPU
# `--build-arg CODE_REVISION=$(git describe --always --dirty --abbrev=12)` goes into the manifest of every result. For a smaller
# CPU-only worker give pip an index with a CPU build of torch: `--build-arg PIP_EXTRA_INDEX_URL=...`.

FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DISTILL_HOME=/var/lib/distill
RUN groupadd --gid 10001 distill \
    && useradd --uid 10001 --gid distill --home-dir /var/lib/distill --create-home distill
WORKDIR /app
COPY pyproject.toml constraints.txt ./
# The dependencies alone, so that this layer outlives changes of our own code.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > /tmp/requirements.txt \
    && pip install -c constraints.txt -r /tmp/requirements.txt

FROM base AS worker-base
ARG PIP_EXTRA_INDEX_URL=""
# A C++ compiler makes torch's compiled steps possible.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['worker'], sep='\n')" > /tmp/requirements.txt \
    && pip install -c constraints.txt -r /tmp/requirements.txt

FROM worker-base AS worker
ARG CODE_REVISION=unknown
ENV DISTILL_CODE_REVISION=${CODE_REVISION}
COPY LICENSE README.md ./
COPY core core
COPY migrations migrations
COPY worker worker
COPY api api
RUN pip install --no-deps -e .
USER distill
CMD ["python", "-m", "worker", "--queues", "cpu"]

FROM base AS api
ARG CODE_REVISION=unknown
ENV DISTILL_CODE_REVISION=${CODE_REVISION}
COPY LICENSE README.md ./
COPY core core
COPY migrations migrations
COPY worker worker
COPY api api
RUN pip install --no-deps -e . \
    && python -c "import importlib.util as u, api.main, worker.reconciler; assert u.find_spec('torch') is None"
USER distill
EXPOSE 8000
CMD ["python", "-m", "uvicorn", "api.main:create_app", "--factory", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "15"]
