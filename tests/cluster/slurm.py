"""A real SLURM of one node, with accounting, as children of this process: all state in one folder.

Needs root and Debian's packages slurm-wlm, slurmdbd, mariadb-server and munge; ``make test-cluster`` installs
them. Two GPUs are made up, so that their scheduling can be seen without any.
"""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

DATABASE = "mariadbd"
DAEMONS = (DATABASE, "munged", "slurmdbd", "slurmctld", "slurmd")
START_SECONDS = 60
STOP_SECONDS = 20

SLURM_CONF = """\
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting_port}
AccountingStoragePass={folder}/munge.socket
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES State=UP
"""
GRES_CONF = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"  # any two device files will do
SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounting_port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm
"""


@contextmanager
def run_slurm(folder: Path) -> Iterator[Mapping[str, str]]:
    """While it is open, SLURM runs; the variables that its commands need come out."""
    missing = [name for name in (*DAEMONS, "sbatch", "sacct") if shutil.which(name) is None]
    assert not missing, f"not installed: {', '.join(missing)}; run `make test-cluster`"
    assert os.geteuid() == 0, "SLURM's daemons start as root only"
    values = _write_settings(folder)
    variables = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    host = socket.gethostname().partition(".")[0]
    with ExitStack() as running:

        def start(*command: str) -> None:
            running.enter_context(_process(command, folder, variables))

        _start_database(folder, values, start)
        start("munged", "--foreground", "--force", *_munge_options(folder))
        _wait_for(["munge", "--no-input", f"--socket={folder}/munge.socket"], variables)
        start("slurmdbd", "-D")
        _wait_for(["sacctmgr", "--immediate", "add", "cluster", "bench"], variables)
        start("slurmctld", "-D", "-c")
        start("slurmd", "-D", "-N", host)
        _wait_for(["sh", "-c", "sinfo --noheader --format=%t | grep -x idle"], variables)
        try:
            yield {"SLURM_CONF": variables["SLURM_CONF"]}
        finally:  # a daemon's end is not a job's
            subprocess.run(["scancel", "--user=root", "--signal=KILL", "--full"], env=variables, check=False)
            _wait_for(["sh", "-c", 'test -z "$(squeue --noheader)"'], variables)


def _write_settings(folder: Path) -> dict[str, str]:
    ports = ("controller_port", "node_port", "accounting_port", "database_port")
    values = {
        "folder": str(folder),
        "host": socket.gethostname().partition(".")[0],
        "cpus": str(os.cpu_count()),
        "password": secrets.token_hex(),
        **dict(zip(ports, map(str, _find_free_ports(len(ports))), strict=True)),
    }
    for name in ("state", "spool", "database"):
        (folder / name).mkdir()
    files = {"slurm.conf": SLURM_CONF, "gres.conf": GRES_CONF, "slurmdbd.conf": SLURMDBD_CONF}
    for name, text in files.items():
        (folder / name).write_text(text.format(**values))
        (folder / name).chmod(0o600)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    return values


def _find_free_ports(count: int) -> list[int]:
    with ExitStack() as open_ones:
        sockets = [open_ones.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _start_database(folder: Path, values: Mapping[str, str], start: Callable[..., None]) -> None:
    data, wire = f"--datadir={folder}/database", f"--socket={folder}/database.socket"
    install = ["mariadb-install-db", "--no-defaults", "--user=root", data, "--skip-test-db"]
    subprocess.run(install, check=True, capture_output=True, timeout=START_SECONDS)
    address = ("--bind-address=127.0.0.1", f"--port={values['database_port']}")
    start(DATABASE, "--no-defaults", "--user=root", data, wire, *address, f"--pid-file={folder}/database.pid")
    client = ["mariadb", "--no-defaults", "--user=root", wire, "--execute"]
    user = f"slurm@'127.0.0.1' IDENTIFIED BY '{values['password']}'"
    _wait_for([*client, f"CREATE DATABASE slurm; GRANT ALL ON slurm.* TO {user}"], os.environ)


def _munge_options(folder: Path) -> list[str]:
    names = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid"}
    names |= {"log-file": "munge.log", "seed-file": "munge.seed"}
    return [f"--{option}={folder / name}" for option, name in names.items()]


@contextmanager
def _process(command: tuple[str, ...], folder: Path, variables: Mapping[str, str]) -> Iterator[None]:
    """A daemon in the foreground, its output in a file; it has ended when this ends."""
    with (folder / f"{command[0]}.out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=variables, process_group=0)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(command: list[str], variables: Mapping[str, str]) -> None:
    """Until the command succeeds."""
    end = time.monotonic() + START_SECONDS
    while True:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        assert time.monotonic() < end, f"{command[0]} still fails: {done.stdout}{done.stderr}"
        time.sleep(0.5)
