# One image for all parts: the command tells which (serve, worker, flower, migrate).
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md ./
COPY publisher publisher
COPY workers workers
RUN python -m venv /opt/publisher \
 && /opt/publisher/bin/pip install --no-cache-dir --constraint constraints.txt '.[postgres,rabbitmq,s3]'

FROM python:3.13-slim
RUN useradd --uid 10001 --create-home --home-dir /var/lib/publisher publisher \
 && install -d -o publisher -g publisher /var/lib/publisher/images
COPY --from=build /opt/publisher /opt/publisher
ENV PATH=/opt/publisher/bin:$PATH \
    PUBLISHER_DATA_DIR=/var/lib/publisher \
    PUBLISHER_INTAKE_HOST=0.0.0.0
USER publisher
WORKDIR /var/lib/publisher
EXPOSE 8000
ENTRYPOINT ["publisher"]
CMD ["serve"]
