# Everything except the training: relay, sinks and TensorBoard's server. No torch.
FROM python:3.12-slim AS build
COPY . /source
RUN python -m venv --without-pip /opt/trainwire \
 && pip --python /opt/trainwire/bin/python install --no-cache-dir --constraint /source/constraints.txt '/source[tensorboard,alerts]'

FROM python:3.12-slim
# A named volume inherits the owner of the folder that it is mounted on.
RUN useradd --uid 1000 --no-create-home trainwire \
 && install --directory --owner=1000 --group=1000 --mode=0700 /runs /relayed /outputs /keys/relay /keys/reader
COPY --from=build /opt/trainwire /opt/trainwire
ENV PATH=/opt/trainwire/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /tmp
CMD ["trainwire", "--help"]
