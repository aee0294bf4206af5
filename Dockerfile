# The control plane's image: web, workers and scheduler differ in their command only. Engines run on nodes, not here.
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends openssh-client restic \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 990 roost \
    && useradd --uid 990 --gid roost --home-dir /var/lib/roost --create-home roost

# Not below /srv/roost: compose mounts the node's directory of that name.
WORKDIR /opt/roost
COPY requirements.lock .
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
COPY manage.py ./
COPY controlplane controlplane
COPY tenants tenants
COPY ansible ansible
COPY templates templates
COPY locale locale

ENV DJANGO_SETTINGS_MODULE=controlplane.settings.production \
    ROOST_STATIC_ROOT=/var/lib/roost/static \
    ROOST_SSH_DIR=/var/lib/roost/ssh \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER roost
EXPOSE 8000
CMD ["gunicorn", "controlplane.wsgi", "--bind=0.0.0.0:8000", "--workers=2", "--threads=24", "--access-logfile=-"]
