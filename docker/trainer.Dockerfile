# The training, with torch and the example's images. PyTorch's default build supports GPUs; for a smaller image without
# GPU support, pass the index of its CPU builds: --build-arg PIP_EXTRA_INDEX_URL=…
FROM python:3.12-slim AS build
ARG PIP_EXTRA_INDEX_URL
COPY . /source
RUN python -m venv --without-pip /opt/trainwire \
 && pip --python /opt/trainwire/bin/python install --no-cache-dir --constraint /source/constraints.txt '/source[torch,demo]'

FROM python:3.12-slim
# A named volume inherits the owner of the folder that it is mounted on.
RUN useradd --uid 1000 --no-create-home trainwire \
 && install --directory --owner=1000 --group=1000 --mode=0700 /runs
COPY --from=build /opt/trainwire /opt/trainwire
COPY examples /examples
ENV PATH=/opt/trainwire/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /tmp
CMD ["python", "/examples/digits.py", "/runs/digits"]
