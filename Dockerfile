# The image of tigrismount: `docker build .`, or `buildah bud --format docker .` (the OCI format has no health check).
#
# BASE is any Debian-like image with Python 3.11 or later; the tests build on a plain Debian. For a build that can be
# repeated name it by its digest. The Python packages are those of constraints.txt, the tools those named here.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG BUILD_TOOLS="pip==26.3 setuptools==84.2.1 setuptools-scm==10.3.4 cython==3.3.1 hatchling==1.33.0"
# Without debugging symbols: pyfuse3 is a sixth then.
ENV CFLAGS="-O2 -g0" DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# pyfuse3 has no wheels. Where Python is the distribution's own, its headers and venv are packages of their own.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev libfuse3-dev pkg-config \
    && if ! [ -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; then \
        apt-get install -y --no-install-recommends python3-dev; fi \
    && if ! python3 -c 'import ensurepip, venv'; then apt-get install -y --no-install-recommends python3-venv; fi \
    && rm -rf /var/lib/apt/lists/*
# The tools are installed apart from what they build; they come from one place, so no isolated build fetches others.
# hadolint ignore=SC2086
RUN python3 -m venv /build && /build/bin/pip install ${BUILD_TOOLS} && python3 -m venv --without-pip /opt/tigrismount
WORKDIR /source
# Before the sources, which change more often than what they need.
COPY constraints.txt ./
RUN /build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /wheels --requirement constraints.txt
COPY . .
RUN /build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . \
    && /build/bin/pip --python /opt/tigrismount/bin/python install --no-compile --no-index --no-deps /wheels/*.whl
WORKDIR /opt/tigrismount/lib
# Of the hundreds of services that botocore describes, those that a mount and its credentials use. Compiled without
# times: nobody can write beside the sources, and every worker starts from here.
RUN find . -path '*/botocore/data/*' -prune -type d \
        ! -name s3 ! -name signin ! -name sso ! -name sso-oidc ! -name sts -exec rm -r {} + \
    && find . -name '*.[ch]' -delete -o -name '*.p[xy][xdi]' -delete \
    && /opt/tigrismount/bin/python -m compileall -q --invalidation-mode unchecked-hash .

FROM ${BASE}
LABEL org.opencontainers.image.title="tigrismount" \
      org.opencontainers.image.description="Mount Tigris and S3 buckets read-only and load model weights fast" \
      org.opencontainers.image.source="https://github.com/tigrismount/tigrismount" \
      org.opencontainers.image.licenses="Apache-2.0"
# A cache belongs to one user, so a new volume at /cache is the image's user's.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates fuse3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf /var/cache/ldconfig /var/log/* \
    && echo user_allow_other >> /etc/fuse.conf \
    && groupadd --gid 10001 tigrismount \
    && useradd --uid 10001 --gid 10001 --home-dir /home/tigrismount --create-home --shell /usr/sbin/nologin tigrismount \
    && install -d -o 10001 -g 10001 /mnt/tigris/models && install -d -o 10001 -g 10001 -m 0700 /cache
COPY --from=build /opt/tigrismount /opt/tigrismount
ENV PATH=/opt/tigrismount/bin:$PATH PYTHONDONTWRITEBYTECODE=1
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["tigrismount", "health", "/mnt/tigris/models", "--degraded-ok"]
ENTRYPOINT ["/usr/bin/tini", "--", "tigrismount"]
CMD ["--help"]
