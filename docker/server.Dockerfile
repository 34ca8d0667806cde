# syntax=docker/dockerfile:1
# The aggregation server, and fedhe-admin beside it: no torch, no key, not root.
# From the repository's root:  docker build -f docker/server.Dockerfile -t fedhe-server .

FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY fedhe fedhe
RUN python -m venv /opt/fedhe \
 && /opt/fedhe/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt .

FROM python:3.11-slim
ARG UID=10001
RUN groupadd --gid "$UID" fedhe \
 && useradd --uid "$UID" --gid fedhe --no-create-home --home-dir /var/lib/fedhe --shell /usr/sbin/nologin fedhe \
 && install -d -o fedhe -g fedhe -m 0700 /var/lib/fedhe
COPY --from=build /opt/fedhe /opt/fedhe
ENV PATH=/opt/fedhe/bin:$PATH \
    FEDHE_HOME=/var/lib/fedhe \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER $UID
VOLUME /var/lib/fedhe
EXPOSE 8443
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["fedhe-server", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["fedhe-server"]
CMD ["start", "--listen", "0.0.0.0:8443"]
