# router-daemon in a container: built from this tree, run as a user without rights.
#
#   docker build -t router-daemon:0.1.0 .
#   docker run --stop-timeout 15 -p 5570:5570 -p 5571:5571 -p 127.0.0.1:9575:9575 router-daemon:0.1.0
#
# Settings: mount a file over /etc/router-daemon/router-daemon.toml, or set variables (ROUTER_DAEMON__SECTION__KEY);
# the three addresses below are variables, so they win over the file. docs/operations.md has more, docs/deploy.md says
# how to run it with others.
#
# Profiles outlive the container on a volume: -v router-state:/var/lib/router-daemon, with
# -e ROUTER_DAEMON__STATE__DIR=/var/lib/router-daemon. Without, nothing is written.
#
# --build-arg:
#   BASE      a Python 3.11 or newer on Debian. By a tag, so that a build takes the patches of today; a digest
#             (python:3.13-slim-bookworm@sha256:...) makes two builds start from the same bytes.
#   EXTRAS    optional parts of the package, with commas between (those of pyproject.toml).
#   REVISION  what it is built from, for a label.

ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ARG EXTRAS=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY router_daemon ./router_daemon
# Without pip in it: nothing is installed into a container that runs.
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && python -m venv --without-pip /opt/router-daemon \
    && wheel="$(echo /wheels/*.whl)" \
    && python -m pip --python /opt/router-daemon/bin/python install --no-cache-dir "${wheel}${EXTRAS:+[${EXTRAS}]}"

FROM ${BASE}
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="router-daemon" \
      org.opencontainers.image.description="Routes each ZeroMQ message to the backends that can do it, soonest and most surely" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 router \
    && useradd --system --no-log-init --uid 10001 --gid router --no-create-home --shell /usr/sbin/nologin router \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/router-daemon
COPY --from=build /opt/router-daemon /opt/router-daemon
COPY config/router-daemon.toml /etc/router-daemon/router-daemon.toml

ENV PATH=/opt/router-daemon/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    ROUTER_DAEMON__FRONTEND__BIND=tcp://0.0.0.0:5570 \
    ROUTER_DAEMON__BACKEND__BIND=tcp://0.0.0.0:5571 \
    ROUTER_DAEMON__ADMIN__BIND=0.0.0.0:9575
# Clients, backends, HTTP. There is no authentication: publish them to networks you trust only.
EXPOSE 5570 5571 9575
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001

# Asks at the port of ROUTER_DAEMON__ADMIN__BIND, past any proxy that the container may be told of.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; port = os.environ['ROUTER_DAEMON__ADMIN__BIND'].rpartition(':')[2]; u.build_opener(u.ProxyHandler({})).open(f'http://127.0.0.1:{port}/livez', timeout=2)"]

# No init (tini) before it: as process 1 the daemon handles its signals itself and starts no processes, and `router-daemon
# serve`, which does, waits for what they leave behind. SIGTERM drains within limits.drain_timeout_s (10), which is all
# that `docker stop` waits by itself: --stop-timeout 15.
ENTRYPOINT ["router-daemon"]
CMD ["run", "--config", "/etc/router-daemon/router-daemon.toml"]
