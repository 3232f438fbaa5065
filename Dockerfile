# Two images from one file:
#   docker build --target laptop -t hybrid:laptop .   the embedded backend, grading, reports
#   docker build --target gpu    -t hybrid:gpu .      vLLM and transformers on a CUDA GPU (run with --gpus all)
# Both run `hybrid` as a user without rights; mount a folder at /work:
#   docker run --rm -v "$PWD:/work" hybrid:laptop run local seal-eval
# Every package is pinned with its hash, and nothing else is fetched: the project itself is built without isolation.

FROM python:3.12-slim AS laptop-packages
RUN python -m venv /opt/hybrid
ENV PATH=/opt/hybrid/bin:$PATH
COPY requirements/demo.txt /src/requirements/demo.txt
RUN pip install --no-cache-dir --no-deps --require-hashes -r /src/requirements/demo.txt
COPY pyproject.toml README.md LICENSE /src/
COPY hybrid /src/hybrid
COPY pipelines /src/pipelines
COPY graders /src/graders
RUN pip install --no-cache-dir --no-deps --no-build-isolation /src

FROM python:3.12-slim AS gpu-packages
RUN python -m venv /opt/hybrid
ENV PATH=/opt/hybrid/bin:$PATH
COPY requirements/gpu.txt /src/requirements/gpu.txt
RUN pip install --no-cache-dir --no-deps --require-hashes -r /src/requirements/gpu.txt
COPY pyproject.toml README.md LICENSE /src/
COPY hybrid /src/hybrid
COPY pipelines /src/pipelines
COPY graders /src/graders
RUN pip install --no-cache-dir --no-deps --no-build-isolation /src

FROM python:3.12-slim AS gpu
# vLLM compiles small kernels for the GPU it finds, which wants a C compiler. CUDA itself comes with torch's packages.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=gpu-packages /opt/hybrid /opt/hybrid
ENV PATH=/opt/hybrid/bin:$PATH NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --create-home hybrid && install -d -o hybrid /work
USER hybrid
WORKDIR /work
ENTRYPOINT ["hybrid"]

FROM python:3.12-slim AS laptop
# llama.cpp's threads are those of GNU OpenMP, which it takes from the system.
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
COPY --from=laptop-packages /opt/hybrid /opt/hybrid
ENV PATH=/opt/hybrid/bin:$PATH
RUN useradd --create-home hybrid && install -d -o hybrid /work
USER hybrid
WORKDIR /work
ENTRYPOINT ["hybrid"]
