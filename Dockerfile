# One image for all roles: `docker run IMAGE serve`, `worker`, `control`, `migrate`, ...
# The image brings no Redis and no Postgres: `dev` is for a checkout, not for a container.

FROM python:3.13-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /source
RUN python -m venv /opt/credits

COPY pyproject.toml README.md LICENSE ./
COPY lua ./lua
COPY persistence ./persistence
COPY sidecar ./sidecar
RUN /opt/credits/bin/pip install . \
    && /opt/credits/bin/pip uninstall --yes pip \
    && /opt/credits/bin/python -m compileall -q /opt/credits/lib

FROM python:3.13-slim-bookworm

# A user without a name of a person, a password, a home or a shell.
RUN groupadd --system --gid 10001 credits \
    && useradd --system --uid 10001 --gid credits --no-create-home --shell /usr/sbin/nologin credits

COPY --from=build /opt/credits /opt/credits

# The journal of `serve`: mount a volume of its own here, one that outlives the container.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/credits/journal
VOLUME /var/lib/credits/journal

ENV PATH=/opt/credits/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CREDITS_JOURNAL_DIR=/var/lib/credits/journal \
    CREDITS_LOG_FORMAT=json

USER 10001:10001
EXPOSE 8787 8788 8790
STOPSIGNAL SIGTERM

# Whichever role runs in this container.
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s --retries=3 \
    CMD ["credit-sidecar", "health"]

ENTRYPOINT ["credit-sidecar"]
CMD ["--help"]
