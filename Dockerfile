# One image for all of Drover's services; compose's `command` says which one it is.
FROM debian:trixie-slim

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates iproute2 python3 python3-venv qemu-system-x86 qemu-utils \
    && rm -rf /var/lib/apt/lists/*

# The requirements first: they change less often than the code.
WORKDIR /opt/drover/src
COPY pyproject.toml README.md ./
RUN python3 -m venv /opt/drover/venv \
    && /opt/drover/venv/bin/python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*project['dependencies'], *(need for extra in ('console', 'controller', 'flower') for need in project['optional-dependencies'][extra]), sep='\n')" >/tmp/requirements \
    && /opt/drover/venv/bin/pip install --no-cache-dir --quiet --requirement /tmp/requirements \
    && rm /tmp/requirements

COPY . .
RUN /opt/drover/venv/bin/pip install --no-cache-dir --quiet '.[console,controller,flower]' \
    && useradd --system --uid 900 --home-dir /var/lib/drover --create-home drover \
    && install --directory --owner=drover /var/lib/flower

ENV PATH=/opt/drover/venv/bin:$PATH PYTHONUNBUFFERED=1
USER drover
WORKDIR /var/lib/drover
CMD ["drover", "--help"]
