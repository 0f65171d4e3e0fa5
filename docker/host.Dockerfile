# The whole tool on a CPU. From the repository's root:
#   docker build -f docker/host.Dockerfile -t heartvit-edge .
FROM python:3.12-slim

ARG UID=1000
RUN useradd --create-home --uid "${UID}" heartvit && install --directory --owner heartvit /data

WORKDIR /opt/heartvit-edge
COPY pyproject.toml README.md LICENSE ./
COPY heartvit_edge heartvit_edge
RUN pip install --no-cache-dir '.[host]'

USER heartvit
WORKDIR /data
ENTRYPOINT ["heartvit-edge"]
CMD ["--help"]
