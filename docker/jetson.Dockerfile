# The device half on a Jetson Orin: ONNX Runtime and the base image's TensorRT, no PyTorch. On the board, from the repository's root:
#   docker build -f docker/jetson.Dockerfile --build-arg JETPACK=6.2 -t heartvit-edge .
#
# JETPACK must be that of the board: TensorRT, CUDA and the driver belong together.
ARG JETPACK=6.2

# JetPack 6.1 to 6.2.2: L4T 36.4 and 36.5, CUDA 12.6, TensorRT 10.3, Python 3.10
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0 AS jetpack-6.2

# JetPack 7.2: L4T 39.2, CUDA 13.2, TensorRT 10.16, Python 3.12. NVIDIA publishes no l4t-jetpack image for it.
FROM nvcr.io/nvidia/tensorrt:26.05-py3 AS jetpack-7.2

# One of the two above.
# hadolint ignore=DL3006
FROM jetpack-${JETPACK}

# The base image's distribution sets the version.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*

# The base image may have a user of this number already. The group video may open the GPU's devices.
ARG UID=1000
RUN useradd --create-home --uid "${UID}" --non-unique --groups video heartvit \
 && install --directory --owner heartvit /data

WORKDIR /opt/heartvit-edge
COPY pyproject.toml README.md LICENSE ./
COPY heartvit_edge heartvit_edge

# jetson-stats must have the version of the board's jtop service, as `jtop --version` prints it there; empty takes the newest.
ARG JETSON_STATS=
RUN python3 -m venv --system-site-packages /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir '.[jetson]' ${JETSON_STATS:+"jetson-stats==${JETSON_STATS}"} \
 && /opt/venv/bin/python -c "from importlib.metadata import version; print('TensorRT', version('tensorrt'))"
ENV PATH=/opt/venv/bin:${PATH}

# By name: in the base image another user may have the number, and other groups.
# hadolint ignore=DL3066
USER heartvit
WORKDIR /data
ENTRYPOINT ["heartvit-edge"]
CMD ["doctor"]
