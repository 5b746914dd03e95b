# One image for Airflow's parts, MLflow, the API and SeaweedFS. Research decision support, not a
# medical device.
FROM python:3.12.12-slim-bookworm AS python

# Everything is pinned by requirements.txt, whose hashes are required of whatever is installed.
# As constraints of the package's dependencies they leave out what only developers need.
FROM python AS build
ENV UV_NO_CACHE=1 UV_LINK_MODE=copy
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /build
COPY requirements.txt pyproject.toml ./
RUN uv venv --python /usr/local/bin/python /opt/venv \
 && uv pip install --python /opt/venv/bin/python --compile-bytecode \
    --require-hashes --constraint requirements.txt --requirements pyproject.toml

FROM python AS dermascan
RUN groupadd --gid 10001 dermascan \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp dermascan \
 && install --directory --owner=10001 --group=10001 /data /opt/airflow
COPY --from=build /opt/venv /opt/venv
# The library is run where it lies: it finds include/ beside itself.
COPY dermascan /opt/dermascan/dermascan
COPY dags /opt/dermascan/dags
COPY plugins /opt/dermascan/plugins
COPY include /opt/dermascan/include
RUN printf '#!/bin/sh\nexec python -m dermascan "$@"\n' > /opt/venv/bin/dermascan \
 && chmod 755 /opt/venv/bin/dermascan \
 && /opt/venv/bin/python -m compileall -q /opt/dermascan
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/dermascan PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 AIRFLOW_HOME=/opt/airflow
WORKDIR /opt/dermascan
USER 10001:10001
CMD ["dermascan", "--help"]

# The last image of MinIO's community edition, with a folder that an ordinary user may write to.
FROM minio/minio:RELEASE.2025-09-07T16-13-09Z AS minio
COPY --from=dermascan --chown=10001:10001 /data /objects
USER 10001:10001

# What `docker build .` makes.
FROM dermascan
