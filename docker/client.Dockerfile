# syntax=docker/dockerfile:1
# One hospital's agent with torch and MONAI; only dials out; not root.
# From the repository's root:  docker build -f docker/client.Dockerfile -t fedhe-client .
# For computers without a GPU, a much smaller torch:  --build-arg TORCH_INDEX=(the address of PyTorch's CPU packages)

FROM python:3.11-slim AS build
ARG TORCH_INDEX=""
WORKDIR /src
COPY constraints.txt ./
# torch first and alone: it is by far the largest layer and changes least
RUN python -m venv /opt/fedhe \
 && /opt/fedhe/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt \
    ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE ./
COPY fedhe fedhe
RUN /opt/fedhe/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt ".[client]"

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
STOPSIGNAL SIGTERM
ENTRYPOINT ["fedhe-client"]
CMD ["--help"]
