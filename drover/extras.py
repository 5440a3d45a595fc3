"""Optional parts of Drover, which a hypervisor need not install."""

from importlib.util import find_spec

from drover.errors import PreconditionFailed

MODULES = {
    "controller": ("httpx", "prometheus_client", "standardwebhooks"),
    "console": ("authlib", "fastapi", "httpx", "itsdangerous", "jinja2", "limits", "uvicorn"),
    "client": ("httpx",),
    "flower": ("flower",),
}
"""The packages of each extra of pyproject.toml, by their import names."""


def require(extra: str, why: str) -> None:
    """Refuse at once, with what to install, instead of failing at an import later.

    Raises:
        PreconditionFailed: something of that extra is not installed.
    """
    missing = [module for module in MODULES[extra] if find_spec(module) is None]
    if missing:
        raise PreconditionFailed(
            f"{why} needs {' and '.join(missing)}, which this environment lacks: install Drover with its extra "
            f"`{extra}`, for example `pip install '.[{extra}]'` in a checkout"
        )
