# The whole tool: PyTorch, timm and ONNX Runtime with their CUDA libraries, which also run on a CPU. From the
# repository's root:
#   docker build -f docker/host.Dockerfile -t heartvit-edge .
#   docker run --rm --gpus all -v "$PWD:/data" heartvit-edge doctor
#
# On x86-64 PyPI's torch brings CUDA: the image needs no CUDA base, and the machine only its driver and NVIDIA's
# container toolkit. EXTRAS=host,tensorrt adds TensorRT and cuda-python.
FROM python:3.12-slim

ARG UID=1000
RUN useradd --create-home --uid "${UID}" heartvit && install --directory --owner heartvit /data

WORKDIR /opt/heartvit-edge
COPY pyproject.toml README.md LICENSE ./
COPY heartvit_edge heartvit_edge
ARG EXTRAS=host
# pyproject.toml sets the versions.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[${EXTRAS}]" "onnxruntime-gpu[cuda,cudnn]"

ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

USER ${UID}
WORKDIR /data
ENTRYPOINT ["heartvit-edge"]
CMD ["--help"]
