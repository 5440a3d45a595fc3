"""The guide for two hypervisors, followed literally on three machines of namespaces, TLS and all."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab.guest.boot_files import boot_files, default_cache
from lab.guest.command_line import command_line
from lab.guest.spec import DiskSpec, GuestSpec
from lab.guest.verify import ImageRef, verify
from tests import namespaces
from tests.guides import HOW_TO, ROOT, blocks, scripts
from tests.helpers import MIB, until
from tests.namespaces import Machine
from workers.process import processes

pytestmark = [
    pytest.mark.guests,
    pytest.mark.skipif(not namespaces.may_be_made(), reason="this user may not make namespaces and mounts here"),
    pytest.mark.skipif(shutil.which("pg_createcluster") is None, reason="no postgresql-common on this machine"),
]

GUIDE, ROTATION, BACKUP, UPGRADE, ADD, STOLEN = (
    HOW_TO / f"{name}.md"
    for name in ("deploy", "tls-and-keys", "backup", "upgrade", "add-a-hypervisor", "stolen-credential")
)
UNITS = ROOT / "deploy" / "systemd"
SETTINGS = "set -a; . /etc/drover/environment; set +a; "
PYTHON = Path(sys.executable).parent.parent
"""The environment in which Drover is installed here."""


@dataclass
class Fleet:
    """The guide's three machines, a fourth one that may be added, and the services that were started on them."""

    machines: dict[str, Machine]
    services: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    left_consoles: list[Path] = field(default_factory=list)
    """What the guest wrote on each host that it has left, in their order."""

    def follow(self, kind: str, only: str = "", page: Path = GUIDE) -> str:
        """Run a page's blocks of a kind, in their order; `only` is a word that the chosen ones contain.

        Returns what they print.
        """
        chosen = [
            (name, script)
            for found, where, script in blocks(page)
            if found == kind and only in script
            for name in where.split(", ")
        ]
        assert chosen, f"{page} has no block {kind} with {only!r}"
        return "".join(self.run(name, script) for name, script in chosen)

    def run(self, name: str, script: str) -> str:
        done = self.machines[name].run(script, cwd=ROOT)
        assert done.returncode == 0, f"on {name}: {script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start_services(self) -> None:
        """What `systemctl enable --now` would start: there is no systemd in a test.

        As root, whatever `User` a unit names: the Python that the tests run with may be out of its reach.
        """
        [(_, units, _)] = [block for block in blocks(GUIDE) if block[0] == "units"]
        for line in units.split("; "):
            name, *services = line.split()
            for service in services:
                self.start_unit(name, service)
        try:
            until("both hypervisors are known", lambda: self.drover("host", "list").count("alive") == 2, 90, every_s=1)
        except AssertionError as error:
            logs = [log for machine in self.machines.values() for log in machine.folder.glob("*.log")]
            said = [f"{log.parent.name} {log.stem}: {processes.log_tail(log)}" for log in logs]
            raise AssertionError("\n".join([str(error), *said])) from error
        assert all(service.poll() is None for service in self.services)

    def start_unit(self, name: str, service: str) -> None:
        """One of the units, on a machine."""
        self.start(name, service, f"{_environment(service)} exec {_start(service)}")

    def start(self, name: str, service: str, command: str) -> None:
        """A command that runs on a machine until all services are stopped."""
        argv = self.machines[name].argv("sh", "-c", f"set -a; {command}")
        with (self.machines[name].folder / f"{service}.log").open("ab") as log:
            self.services.append(subprocess.Popen(argv, stdout=log, stderr=log))

    def stop_services(self) -> None:
        for service in self.services:
            entered = processes.process(service.pid)
            for started in processes.children(entered) if entered else []:
                started.signal(signal.SIGTERM)  # nsenter(1) forks, and passes no signal on
        for service in self.services:
            service.wait(60)
        self.services.clear()

    def drover(self, *words: str) -> str:
        return self.run("control", SETTINGS + shlex.join(["/opt/drover/bin/drover", *words]))


def _start(service: str) -> str:
    text = (UNITS / f"{service}.service").read_text().replace("\\\n", " ")
    [start] = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    return str(start)


def _environment(service: str) -> str:
    """Its files, the later ones above the earlier."""
    files = re.findall(r"^EnvironmentFile=-?(.*)$", (UNITS / f"{service}.service").read_text(), re.MULTILINE)
    return " ".join(f"[ ! -e {file} ] || . {file};" for file in files)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The guide followed up to the running services."""
    with namespaces.machines(["control", "hv1", "hv2", "hv3"], tmp_path_factory.mktemp("machines")) as made:
        fleet = Fleet({machine.name: machine for machine in made})
        [folder] = re.findall(r"^install .* /etc/drover$", GUIDE.read_text(), re.MULTILINE)
        for name in fleet.machines:
            fleet.run(name, f"ln -s {PYTHON} /opt/drover && {folder}")
        fleet.run("control", "useradd --system --home-dir /nonexistent drover")
        fleet.run("control", "install --directory --mode=0700 /var/lib/drover-flower --owner=drover")
        of_guide = [block for block in blocks(GUIDE) if block[0] == "run"]
        for _, where, script in of_guide[: _position(of_guide, "drover db upgrade") + 1]:
            for name in where.split(", "):
                _hand_over(fleet, name)
                fleet.run(name, script)
        try:
            fleet.start_services()
            yield fleet
        finally:
            fleet.stop_services()


def _position(among: list[tuple[str, str, str]], words: str) -> int:
    return next(number for number, block in enumerate(among) if words in block[2])


def _hand_over(fleet: Fleet, name: str) -> None:
    """What the guide has copied from machine to machine by hand."""
    control = fleet.machines["control"].path("/etc/drover")
    for source, target in (
        ("ca.crt", "ca.crt"),
        (f"{name}.crt", "host.crt"),
        (f"{name}.key", "host.key"),
        (f"{name}.redis", f"{name}.redis"),
    ):
        if (control / source).exists():
            there = fleet.machines[name].path("/etc/drover") / target
            if there != control / source:
                shutil.copy(control / source, there)


@pytest.fixture(scope="module")
def guest(fleet: Fleet) -> Path:
    """A guest on hv1, started by its owner; answers its folder, which is the same on every host."""
    return _booted(fleet)


def _booted(fleet: Fleet) -> Path:
    folder = Path("/var/lib/guests/web")
    kernels = shlex.quote(f'read = ["{default_cache()}"]')
    for name in ("hv1", "hv2"):
        fleet.run(name, f"echo {kernels} >/etc/drover/policy.toml")
    spec = GuestSpec(
        name="web",
        directory=folder,
        disks=(DiskSpec(size_bytes=64 * MIB, format="raw"),),
        window_mib=4,
        write_rate=40,
        more=("-qmp", "unix:/run/web.qmp,server=on,wait=off"),
    )
    fleet.run(
        "hv1", f"mkdir --parents {folder} && qemu-img create -q -f raw {spec.image(0)} {spec.disks[0].size_bytes}"
    )
    fleet.run("hv1", shlex.join(command_line(spec, boot_files(default_cache()))) + " -daemonize")
    console = fleet.machines["hv1"].path(str(spec.console))
    until("the guest writes", lambda: b"ack " in console.read_bytes(), 120)
    return folder


def _goes_on(fleet: Fleet, guest: Path, host: str) -> None:
    """The guest writes on that host, which it has just come to, and all that it wrote before is there."""
    [left] = {"hv1", "hv2"} - {host}
    put_away = f"{guest}/console.{len(fleet.left_consoles)}"
    fleet.run(left, f"mv {guest}/console.log {put_away}")
    fleet.left_consoles.append(fleet.machines[left].path(put_away))
    console = fleet.machines[host].path(str(guest)) / "console.log"
    seen = console.stat().st_size
    until(f"the guest goes on at {host}", lambda: console.stat().st_size > seen)
    fleet.run(host, "pkill --signal STOP qemu-system")
    try:
        report = verify([ImageRef(console.with_name("disk0.raw"), "raw", "vda")], [*fleet.left_consoles, console])
    finally:
        fleet.run(host, "pkill --signal CONT qemu-system")
    assert report.ok, report.problems


def _moved_by_the_guide(fleet: Fleet, guest: Path) -> None:
    """Once, by whichever test comes first."""
    if not fleet.left_consoles:
        fleet.follow("run", "drover migrate web")
        _goes_on(fleet, guest, "hv2")


def test_the_guide_moves_a_guest_by_tls_and_its_backup_can_be_restored(fleet: Fleet, guest: Path) -> None:
    _moved_by_the_guide(fleet, guest)

    fleet.follow("run", "pg_dump", BACKUP)
    fleet.stop_services()
    fleet.follow("restore", page=BACKUP)
    fleet.follow("upgrade", page=UPGRADE)
    fleet.start_services()
    assert re.search(r"web .*hv2", fleet.drover("guest", "list"))

    job = json.loads(fleet.drover("migrate", "web", "--to", "hv1", "--bandwidth", "1M", "--json"))["id"]
    assert job > 10_000, "no job that was submitted after the backup had that number"
    fleet.drover("job", "cancel", str(job))
    shown = ("job", "show", str(job), "--json")
    until("the move is rolled back", lambda: json.loads(fleet.drover(*shown))["state"] == "rolled_back", every_s=0.5)


def _redis(fleet: Fleet, name: str, *words: str, password: str = "", on: str = "") -> str:
    present = (fleet.machines["control"].path("/etc/drover") / f"{name}.redis").read_text().split()[0]
    certificate = "--cacert /etc/drover/ca.crt --cert /etc/drover/host.crt --key /etc/drover/host.key"
    login = f"--user {name} --pass {password or present} --no-auth-warning"
    return fleet.run(on or name, f"redis-cli --tls -h control -p 6380 {certificate} {login} {shlex.join(words)} 2>&1")


def test_a_hypervisor_gets_at_nobody_elses_messages_and_at_no_schema(fleet: Fleet) -> None:
    assert "NOPERM" in _redis(fleet, "hv1", "LRANGE", "drover.hv2", "0", "-1")
    assert "NOPERM" in _redis(fleet, "hv1", "DEL", "drover.hv2")
    assert "NOPERM" in _redis(fleet, "hv1", "FLUSHALL")
    assert "NOPERM" in _redis(fleet, "hv1", "LPUSH", "drover.control", "a move of its own")
    assert "NOPERM" in _redis(fleet, "hv1", "PUBLISH", "/0.celery.pidbox", "shutdown")
    assert "NOPERM" not in _redis(fleet, "hv1", "LLEN", "drover.hv1")
    tried = fleet.machines["hv1"].run(
        SETTINGS + 'psql "$(echo "$DROVER_DATABASE_URL" | sed s/+psycopg//)" --command "DROP TABLE job" 2>&1'
    )
    assert tried.returncode != 0
    assert "must be owner" in tried.stdout


def _restart_redis(fleet: Fleet) -> None:
    """As systemd would. What was killed stays a zombie there: the machine has no init."""
    [start] = re.findall(r"^su redis .*$", GUIDE.read_text(), re.MULTILINE)
    control = fleet.machines["control"]
    control.run("pkill redis-server")
    until("Redis has ended", lambda: not control.run("pgrep --runstates D,R,S redis-server").stdout)
    fleet.run("control", start)


def _postgres(fleet: Fleet, name: str, statement: str) -> str:
    login = SETTINGS + 'psql "$(echo "$DROVER_DATABASE_URL" | sed s/+psycopg//)" --tuples-only --no-align --command '
    return fleet.machines[name].run(login + shlex.quote(statement) + " 2>&1").stdout


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE job SET plan = '{}'",  # would start a program on another host
        "UPDATE disk SET destination_path = '/etc/passwd'",
        "UPDATE host SET state = 'maintenance'",
        "INSERT INTO job (guest, source, destination, state) VALUES ('web', 'hv2', 'hv1', 'queued')",
        "INSERT INTO host SELECT 'hv3', address, guest_root, incarnation, heartbeat_at, facts, state FROM host",
        "DELETE FROM job",
        "SELECT * FROM drain",
    ],
)
def test_a_hypervisor_may_do_nothing_to_the_database_but_tell_how_its_moves_go(
    fleet: Fleet, guest: Path, statement: str
) -> None:
    said = _postgres(fleet, "hv1", statement)
    assert "permission denied" in said or "violates row-level security" in said


def test_a_hypervisor_sees_no_other(fleet: Fleet, guest: Path) -> None:
    assert _postgres(fleet, "hv1", "SELECT name FROM host") == "hv1\n"


def test_a_worker_was_denied_nothing_it_needed(fleet: Fleet, guest: Path) -> None:
    for name in ("hv1", "hv2"):
        log = (fleet.machines[name].folder / "drover-worker.log").read_text()
        assert "permission denied" not in log
        assert "NOPERM" not in log
        assert "no permissions" not in log  # as redis-py says it


def test_hooks_and_checks_in_the_guides_folder_can_be_run_as_users_who_read_no_secret_there(fleet: Fleet) -> None:
    as_nobody = "setpriv --reuid=nobody --regid=nogroup --clear-groups"
    fleet.run("hv1", f"install --directory /etc/drover/hooks && {as_nobody} ls /etc/drover/hooks")
    readable = fleet.run("hv1", f"for file in /etc/drover/*; do ! {as_nobody} test -r $file || basename $file; done")
    assert not {"environment", "host.key", "hv1.redis"} & set(readable.split())


def test_the_certificates_stand_the_strict_check_that_python_makes_from_3_13_on(fleet: Fleet) -> None:
    strictly = "openssl verify -x509_strict -CAfile /etc/drover/ca.crt"
    fleet.run("control", f"{strictly} /etc/drover/control.crt /etc/drover/hv1.crt /etc/drover/hv2.crt")


def test_nobody_gets_in_without_a_certificate_or_with_anothers_name(fleet: Fleet) -> None:
    bare = fleet.machines["hv1"].run("redis-cli --tls -h control -p 6380 --cacert /etc/drover/ca.crt PING 2>&1")
    assert "PONG" not in bare.stdout
    as_other = fleet.machines["hv1"].run(
        SETTINGS + 'psql "$(echo "$DROVER_DATABASE_URL" | sed "s/+psycopg//; s/hv1@/hv2@/")" --command "SELECT 1" 2>&1'
    )
    assert as_other.returncode != 0
    assert "certificate authentication failed" in as_other.stdout


FLOWER = "http://127.0.0.1:5555"


def _flower_sees_the_queues(fleet: Fleet) -> None:
    [known, *_] = (fleet.machines["control"].path("/etc/drover") / "flower.users").read_text().split()
    ask = f"curl --silent --user {known} {FLOWER}/api/queues/length"
    until("Flower knows how many messages wait", lambda: "drover.unrouted" in fleet.run("control", f"{ask} || true"))


def test_flower_shows_nothing_without_a_password_and_has_none_in_its_arguments_or_environment(fleet: Fleet) -> None:
    control = fleet.machines["control"]
    answered = "curl --silent --output /dev/null --write-out %{http_code} "
    until("Flower answers", lambda: control.run(answered + FLOWER).stdout == "401")
    kept = control.path("/etc/drover")
    assert control.run(f"{answered} --user operator:guessed {FLOWER}").stdout == "401"
    known = (kept / "flower.users").read_text().strip()
    (kept / "flower.users").write_text(f"{known}\nada:another\n")
    for who in (known, "ada:another"):
        assert control.run(f"{answered} --user {who} {FLOWER}/workers").stdout == "200", "read for each request"
    _flower_sees_the_queues(fleet)
    secrets = [word.partition(":")[2] or word for file in ("*.redis", "flower.users") for path in kept.glob(file)
               for word in path.read_text().split()]  # fmt: skip
    [pid] = control.run("pgrep --full '[d]rover flower'").stdout.split()
    told = control.run(f"cat /proc/{pid}/cmdline /proc/{pid}/environ | tr '\\0' '\\n'").stdout
    assert "DROVER_FLOWER_PASSWORD_FILE" in told
    assert not [secret for secret in secrets if secret in told]
    open_to_all = control.run("find /etc/drover -perm /004 -type f").stdout.split()
    assert not [name for name in open_to_all if any(secret in control.path(name).read_text() for secret in secrets)]


def _serial(fleet: Fleet, certificate: str, on: str = "hv1") -> int:
    return _number(fleet.run(on, f"openssl x509 -noout -serial -in {certificate}"))


def _number(serial: str) -> int:
    return int(serial.strip().partition("=")[2], 16)


def _shown_by(fleet: Fleet, service: str) -> int:
    """The certificate that hv1 is shown."""
    login = "-CAfile /etc/drover/ca.crt -cert /etc/drover/host.crt -key /etc/drover/host.key"
    shown = f"openssl s_client {service} {login} </dev/null 2>/dev/null | openssl x509 -noout -serial"
    return _number(fleet.run("hv1", shown))


def _copy(fleet: Fleet, *names: str) -> None:
    """From control to hv1, by hand."""
    control, hv1 = (fleet.machines[name].path("/etc/drover") for name in ("control", "hv1"))
    for name in names:
        shutil.copy(control / name, hv1 / name.replace("hv1.crt", "host.crt").replace("hv1.key", "host.key"))


def _as_owner(fleet: Fleet, statement: str) -> str:
    words = f"psql --port=5433 --tuples-only --no-align --command={shlex.quote(statement)}"
    return fleet.run("control", shlex.join(["su", "postgres", "-c", words]))


def _asked_for_a_password(fleet: Fleet) -> None:
    """Hv1's role has a password from now on."""
    fleet.follow("password", page=ROTATION)
    fleet.follow("count", page=ROTATION)
    _copy(fleet, "hv1.postgres")
    fleet.run("control", "sed -i '1i hostssl drover hv1 all scram-sha-256' /etc/postgresql/*/drover/pg_hba.conf")
    _as_owner(fleet, "SELECT pg_reload_conf()")
    fleet.run("hv1", "echo DROVER_DATABASE_PASSWORD_FILE=/etc/drover/hv1.postgres >>/etc/drover/environment")


def _cut_off(fleet: Fleet) -> None:
    """Hv1 has to connect to Postgres anew."""
    _as_owner(fleet, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'hv1'")


def _host_of_the_guest(fleet: Fleet) -> str:
    [web] = json.loads(fleet.drover("guest", "list", "--json"))["guests"]
    return str(web["host"])


def _token(fleet: Fleet) -> str:
    return fleet.follow("token", page=ROTATION).split()[-1]


def _by_the_api(fleet: Fleet, token: str, *words: str) -> "subprocess.CompletedProcess[str]":
    given = f"DROVER_API_URL=http://127.0.0.1:9465 DROVER_API_TOKEN={token}"
    return fleet.machines["control"].run(f"{given} /opt/drover/bin/drover {shlex.join(words)}")


@pytest.mark.thorough
def test_every_credential_is_renewed_by_the_commands_of_its_page_while_a_guest_moves(fleet: Fleet, guest: Path) -> None:
    fleet.stop_services()
    _asked_for_a_password(fleet)
    fleet.start_services()
    fleet.start("control", "drover-console", ". /etc/drover/environment; exec /opt/drover/bin/drover console --actions")
    former_token = _token(fleet)
    _moved_by_the_guide(fleet, guest)
    here = _host_of_the_guest(fleet)
    there = {"hv1": "hv2", "hv2": "hv1"}[here]
    job = str(json.loads(fleet.drover("migrate", "web", "--to", there, "--hold", "--json"))["id"])

    def shown() -> dict[str, Any]:
        return dict(json.loads(fleet.drover("job", "show", job, "--json")))

    until("the disk is kept in sync", lambda: all(disk["ready_at"] for disk in shown()["disks"]), every_s=0.5)
    keys = [fleet.run(name, SETTINGS + "/opt/drover/bin/drover host key") for name in ("hv1", "hv2")]
    passwords = [
        (fleet.machines["hv1"].path("/etc/drover") / name).read_text() for name in ("hv1.redis", "hv1.postgres")
    ]
    flower = (fleet.machines["control"].path("/etc/drover") / "flower.redis").read_text().strip()
    serial = _serial(fleet, "/etc/drover/host.crt")

    fleet.follow("run", "host key --renew", ROTATION)
    fleet.follow("run", "broker acl", ROTATION)
    _copy(fleet, "hv1.redis")
    fleet.follow("settle", page=ROTATION)
    fleet.follow("password", page=ROTATION)
    _copy(fleet, "hv1.postgres")
    _cut_off(fleet)  # the former password counts still
    fleet.follow("count", page=ROTATION)
    fleet.follow("run", "openssl req", ROTATION)
    _copy(fleet, "hv1.crt", "hv1.key")
    fleet.follow("flower", page=ROTATION)
    fleet.follow("own", page=ROTATION)
    _restart_redis(fleet)
    token = _token(fleet)
    assert _by_the_api(fleet, token, "job", "set", job, "--priority", "7").returncode == 0
    fleet.follow("revoke", page=ROTATION)
    _cut_off(fleet)

    assert "the token is not valid" in _by_the_api(fleet, former_token, "job", "show", job).stderr
    assert _serial(fleet, "/etc/drover/host.crt") != serial
    seen = "SELECT client_serial FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'hv1'"
    until(
        "hv1 shows its new certificate", lambda: str(_serial(fleet, "/etc/drover/host.crt")) in _as_owner(fleet, seen)
    )
    assert keys != [fleet.run(name, SETTINGS + "/opt/drover/bin/drover host key") for name in ("hv1", "hv2")]
    assert "WRONGPASS" in _redis(fleet, "hv1", "PING", password=passwords[0].split()[0])
    assert "WRONGPASS" in _redis(fleet, "flower", "PING", on="control", password=flower)
    assert "WRONGPASS" not in _redis(fleet, "flower", "PING", on="control")
    _flower_sees_the_queues(fleet)
    own = _serial(fleet, "/etc/drover/control.crt", on="control")
    assert {
        _shown_by(fleet, "-connect control:6380"),
        _shown_by(fleet, "-starttls postgres -connect control:5433"),
    } == {own}
    assert shown()["state"] == "running"

    assert _by_the_api(fleet, token, "job", "release", job).returncode == 0
    until("the guest has moved", lambda: shown()["state"] == "done", 120, every_s=0.5)
    _goes_on(fleet, guest, there)
    fleet.drover("migrate", "web", "--to", here, "--wait")  # by the new credentials from its beginning
    _goes_on(fleet, guest, here)


@pytest.mark.thorough
def test_a_stolen_hypervisor_is_shut_out_and_let_in_again_with_everything_new(fleet: Fleet) -> None:
    fleet.run("hv1", "cd /etc/drover && cp host.crt stolen.crt && cp --preserve=mode host.key stolen.key")

    fleet.follow("out", page=STOLEN)
    logged_in = "SELECT rolcanlogin, (SELECT count(*) FROM pg_stat_activity WHERE usename = rolname) FROM pg_roles"
    assert _as_owner(fleet, f"{logged_in} WHERE rolname = 'hv1'") == "f|0\n"
    assert "WRONGPASS" in _redis(fleet, "hv1", "PING")
    assert "PONG" in _redis(fleet, "hv2", "PING")

    fleet.stop_services()
    fleet.follow("run", "openssl req", ROTATION)
    fleet.follow("back", page=STOLEN)
    _copy(fleet, "hv1.redis", "hv1.postgres", "hv1.crt", "hv1.key")
    stolen = "s/+psycopg//; s/host.crt/stolen.crt/; s/host.key/stolen.key/"
    login = f'PGPASSWORD=guessed psql "$(echo "$DROVER_DATABASE_URL" | sed "{stolen}")" --command "SELECT 1" 2>&1'
    assert "password authentication failed" in fleet.machines["hv1"].run(SETTINGS + login).stdout
    fleet.start_services()


@pytest.mark.thorough
def test_a_hypervisor_is_added_while_everything_runs(fleet: Fleet) -> None:
    fleet.follow("add", page=ADD)
    _hand_over(fleet, "hv3")
    for kind, where, script in blocks(GUIDE):
        if kind == "run" and "hv1" in where.split(", "):
            fleet.run("hv3", script)
    fleet.start_unit("hv3", "drover-worker")
    until("hv3 is known", lambda: re.search("hv3 .*alive", fleet.drover("host", "list")), 90, every_s=1)
    fleet.run("hv3", SETTINGS + "/opt/drover/bin/drover doctor")
    assert "NOPERM" not in _redis(fleet, "hv1", "LLEN", "drover.hv3"), "the others may send it the next link of a chain"


SERVERS = """
version=$(ls /usr/lib/postgresql | tail -n 1)
pg_createcluster $version shortest --port 5432
echo "listen_addresses = '*'" >>/etc/postgresql/$version/shortest/postgresql.conf
echo "host drover drover samenet scram-sha-256" >>/etc/postgresql/$version/shortest/pg_hba.conf
pg_ctlcluster $version shortest start
su postgres -c "psql --quiet --port=5432" <<END
CREATE ROLE drover LOGIN PASSWORD 'secret'; -- pragma: allowlist secret
CREATE DATABASE drover OWNER drover TEMPLATE template0 ENCODING 'UTF8';
END
redis-server --protected-mode no --daemonize yes --dir /var/lib/redis
"""
"""What the page about the shortest set-up takes for granted."""


@pytest.mark.thorough
def test_the_shortest_set_up_moves_a_guest(tmp_path_factory: pytest.TempPathFactory) -> None:
    [script] = scripts(HOW_TO / "shortest-set-up.md", "shortest")
    export, control, worker, anywhere = re.split(r"^# .*\n", script, flags=re.MULTILINE)[1:]
    upgrade, controller = control.splitlines()
    everywhere = f"export PATH=/opt/drover/bin:$PATH; {export}"
    with namespaces.machines(["control", "hv1", "hv2"], tmp_path_factory.mktemp("shortest")) as made:
        fleet = Fleet({machine.name: machine for machine in made})
        for name in fleet.machines:
            fleet.run(name, f"ln -s {PYTHON} /opt/drover && mkdir --parents /etc/drover")
        fleet.run("control", SERVERS)
        fleet.run("control", everywhere + upgrade)
        try:
            fleet.start("control", "controller", everywhere + controller.rstrip("& "))
            for number, name in enumerate(("hv1", "hv2"), start=2):
                there = worker.replace("hv1", name).replace("10.0.0.1", f"{namespaces.NETWORK}.{number}")
                fleet.start(name, "worker", everywhere + there.rstrip("&\n "))
            guest = _booted(fleet)
            listed = f"{everywhere}drover host list"
            until("both hypervisors are known", lambda: fleet.run("control", listed).count("alive") == 2, 90, every_s=1)
            assert "web lives on hv2" in fleet.run("control", everywhere + anywhere)
            _goes_on(fleet, guest, "hv2")
        finally:
            fleet.stop_services()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda unit: unit.name)
def test_the_units_have_no_rights_that_they_do_not_need(unit: Path) -> None:
    words = ["systemd-analyze", "security", "--offline=true", "--threshold=39", "--no-pager", str(unit)]
    told = subprocess.run(words, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda unit: unit.name)
def test_systemd_understands_the_units(fleet: Fleet, unit: Path) -> None:
    told = fleet.machines["control"].run(f"systemd-analyze verify --man=no {unit} 2>&1")
    assert unit.name not in told.stdout, told.stdout
