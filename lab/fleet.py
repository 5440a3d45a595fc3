"""Bringing a lab up and down: services, one worker per host, the controller, Flower."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery

import migrations
from drover.errors import PreconditionFailed
from drover.extras import require
from drover.settings import settings, variables
from lab import network, services
from lab.directory import LONGEST_PATH, MARKER, Lab, LabHost, host_names
from lab.guest.boot_files import default_cache
from models.database import transaction
from models.host import Host
from workers.process import processes
from workers.process.processes import Process
from workers.trust.policy import FIRMWARE

START_TIMEOUT_S, STOP_TIMEOUT_S = 60.0, 30.0


def up(lab: Lab, hosts: int, *, flower: bool = True, namespaces: bool = False) -> None:
    """Start everything, with nothing configured beforehand.

    Raises:
        PreconditionFailed: there is a lab already, or something is missing on this machine.
    """
    _check(lab, hosts, flower=flower, namespaces=namespaces)
    for name in host_names(hosts):
        lab.host(name).guests.mkdir(parents=True)
    (lab.path / MARKER).touch()
    write_policy(lab)
    write_hook(lab)
    if namespaces:
        network.create(lab)
    services.start_postgres(lab)
    services.start_redis(lab)
    make_tables(lab)
    services.make_roles(lab, host_names(hosts))
    if lab.limits:
        _drover(lab, "fleet", "set", *(f"{limit}={value}" for limit, value in lab.limits.items()))
    for host in lab.hosts:
        start_worker(lab, host)
    start_controller(lab)
    if flower:
        start_flower(lab)
    wait_for_workers(lab)


def _check(lab: Lab, hosts: int, *, flower: bool, namespaces: bool) -> None:
    require("controller", "a lab's controller")
    if flower:
        require("flower", "a lab with Flower (leave it out with --no-flower)")
    if lab.exists:
        raise PreconditionFailed(f"there is a lab in {lab.path} already: use it, or `{lab.command('down')}` first")
    if lab.path.exists() and any(lab.path.iterdir()):
        raise PreconditionFailed(f"{lab.path} is not empty and not a lab: name another folder with --dir")
    if len(str(lab.path)) > LONGEST_PATH:
        raise PreconditionFailed(f"{lab.path} is too long for Unix sockets: name a shorter folder with --dir")
    if namespaces and os.geteuid() != 0:
        raise PreconditionFailed("only root may make network namespaces: leave --namespaces out")
    if not 1 <= hosts <= 26:
        raise PreconditionFailed("a lab has 1 to 26 hosts")
    lab.path.mkdir(parents=True, exist_ok=True)
    lab.path.chmod(0o711)  # Postgres, as its own user, must reach its folder


def write_policy(lab: Lab, **more: str) -> None:
    """Guests of a lab are booted from its cache; `more` are further lines of the file."""
    read = [*map(str, FIRMWARE), str(default_cache())]
    lines = {"read": json.dumps(read)} | more
    lab.policy.write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
    lab.policy.chmod(0o644)


def _program(name: str) -> str:
    """A command of the environment that this runs in."""
    return str(Path(sys.executable).with_name(name))


def make_tables(lab: Lab) -> None:
    """As `drover db upgrade` does, without the seconds that a process of its own takes."""
    with pointed_at(lab):
        migrations.upgrade()


def _drover(lab: Lab, *words: str) -> None:
    done = subprocess.run(
        [_program("drover"), *words], env=os.environ | lab.environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise PreconditionFailed(f"drover {' '.join(words)} failed: {done.stderr.strip()}")


HOOK = """#!/bin/sh -e
# stands for `ssh HOST systemctl reboot`
exec {drover} lab reboot "$DROVER_ROLL_HOST" --dir {folder}
"""


def write_hook(lab: Lab) -> None:
    """The hook `reboot`, for `drover roll`."""
    lab.hooks.mkdir(mode=0o755)
    hook = lab.hooks / "reboot"
    hook.write_text(HOOK.format(drover=_program("drover"), folder=lab.path))
    hook.chmod(0o755)


def reboot(lab: Lab, host: LabHost) -> None:
    """What stands for a reboot: the host's worker ends, and begins anew. Its guests, if it has any, run on."""
    for process in processes.find(lab.mark(f"worker-{host.name}")):
        process.signal(signal.SIGTERM)
        if not process.wait(STOP_TIMEOUT_S):
            process.kill()
    start_worker(lab, host)


def start_worker(lab: Lab, host: LabHost, **settings: str) -> Process:
    """The worker of one host, as an operator would start it; `settings` are further variables of its environment."""
    return processes.spawn(
        lab.mark(f"worker-{host.name}"),
        [*network.inside(lab, host), _program("drover"), "worker", "--host", host.name],
        lab.logs / f"{host.name}.log",
        environment=os.environ | lab.host_environment(host) | settings,
    )


def start_controller(lab: Lab) -> Process:
    """The controller, which answers Prometheus on a free port of 127.0.0.1."""
    port = _free_port(lab.metrics_port_file)
    return processes.spawn(
        lab.mark("controller"),
        [_program("drover"), "controller", "--metrics", f"127.0.0.1:{port}"],
        lab.logs / "controller.log",
        environment=os.environ | lab.environment_of(services.CONTROLLER),
    )


def _free_port(written_to: Path) -> int:
    port = free_port()
    written_to.write_text(str(port))
    return port


def free_port() -> int:
    """A port of 127.0.0.1 that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def start_flower(lab: Lab) -> Process:
    """Flower, on a free port of 127.0.0.1."""
    port = _free_port(lab.flower_port_file)
    return processes.spawn(
        lab.mark("flower"),
        [_program("drover"), "flower", "--listen", f"127.0.0.1:{port}", "--events", f"{lab.path}/flower"],
        lab.logs / "flower.log",
        environment=os.environ | lab.environment_of(services.FLOWER) | {"DROVER_HOST": services.FLOWER},
    )


def wait_for_workers(lab: Lab) -> None:
    """Wait until every host is registered."""
    wanted = {host.name for host in lab.hosts}
    deadline = time.monotonic() + START_TIMEOUT_S
    with pointed_at(lab):
        while not wanted <= _registered():
            if time.monotonic() > deadline:
                raise PreconditionFailed(f"not all workers started, see {lab.logs}")
            time.sleep(0.1)


def _registered() -> set[str]:
    with transaction() as session:
        return {row.name for row in session.query(Host).all()}


@contextmanager
def pointed_at(lab: Lab) -> Iterator[None]:
    """Let this process use the lab's database and broker, with the lab's settings and no others."""
    replaced = lab.environment.keys() | variables().keys()
    before = {key: os.environ.pop(key, None) for key in replaced}
    os.environ.update(lab.environment)
    settings.cache_clear()
    try:
        with celery_configured():
            yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        settings.cache_clear()


@contextmanager
def celery_configured() -> Iterator[None]:
    """Let Celery in this process use the broker that the environment names now."""
    from drover.broker.app import app, configuration

    former = {key: app.conf.get(key) for key in configuration()}
    _reconfigure(app, configuration())
    try:
        yield
    finally:
        _reconfigure(app, former)


def _reconfigure(app: Celery, configuration: dict[str, Any]) -> None:
    app.conf.update(configuration)
    del app.amqp  # it holds connections to the former broker


def down(lab: Lab) -> None:
    """End all that the lab or its jobs started, and delete its folder."""
    if not lab.exists:
        return
    postgres = processes.find(lab.mark("postgres"))
    while others := [process for process in processes.find_below(lab.path) if process not in postgres]:
        for process in others:  # repeatedly: one of them may just have started another
            process.kill()
    services.stop_postgres(lab)
    network.delete(lab)
    shutil.rmtree(lab.path)
