"""Start a SLURM of two nodes on this machine, on the loopback interface, and stop it again.

    python scripts/start_slurm.py slurm                     # until Ctrl-C
    python scripts/start_slurm.py slurm -- sbatch job.sh    # while a command runs; its exit code is returned

All files lie in the folder, which must not exist and is removed at the end. Each node claims four processors,
whatever this machine has. There is no accounting. Programs find it by the environment variable SLURM_CONF,
which is printed and set for the command. On Debian: apt-get install slurm-wlm munge.

It is for tests: root may start it, or a user, whose jobs alone it runs then.
"""

from __future__ import annotations

import argparse
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
NODES = ("node1", "node2")
CPUS = 4
MEMORY_MIB = 8192
START_SECONDS = 60.0
STOP_SECONDS = 20.0

CONF = """\
ClusterName=made
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldParameters=idle_on_node_suspend
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0
KillWait=2
CompleteWait=0
ReturnToService=2
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory={memory}\n"
PARTITION = "PartitionName=main Nodes={names} Default=YES MaxTime=60 State=UP\n"


def missing_programs() -> list[str]:
    """Return the names of the programs that are not installed."""
    return [name for name in PROGRAMS if find_program(name) is None]


def find_program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@contextmanager
def local_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Run SLURM in a new folder; yield the environment by which its programs find it.

    At the end its jobs are cancelled, its processes have ended, and the folder is gone.

    Raises:
        RuntimeError: a program is missing, or SLURM does not start; with the end of its logs.
        FileExistsError: the folder exists.
    """
    if missing := missing_programs():
        raise RuntimeError(f"not installed: {', '.join(missing)}; on Debian: apt-get install slurm-wlm munge")
    folder = folder.absolute()
    folder.mkdir(parents=True)
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    with ExitStack() as started:
        started.callback(shutil.rmtree, folder)
        _configure(folder)
        _start(started, folder, "munged", *_munge(folder), ready=folder / "munge.socket")
        _start(started, folder, "slurmctld", "-D", "-f", environment["SLURM_CONF"])
        for name in NODES:
            _start(started, folder, "slurmd", "-D", "-N", name, "-f", environment["SLURM_CONF"])
        _wait_for_nodes(folder, environment)
        started.callback(_cancel_jobs, environment)
        yield environment


def _configure(folder: Path) -> None:
    """Write slurm.conf, and make the folders that it names and the key of munge."""
    (folder / "state").mkdir()
    host, ports = socket.gethostname().split(".")[0], _free_ports(1 + len(NODES))
    parts = [CONF.format(host=host, user=getpass.getuser(), folder=folder, ports=ports)]
    for name, port in zip(NODES, ports[1:], strict=True):
        (folder / name).mkdir()
        parts.append(NODE.format(name=name, host=host, port=port, cpus=CPUS, memory=MEMORY_MIB))
    parts.append(PARTITION.format(names=",".join(NODES)))
    (folder / "slurm.conf").write_text("".join(parts))
    subprocess.run([str(find_program("mungekey")), "-c", "-k", str(folder / "munge.key")], check=True)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _munge(folder: Path) -> list[str]:
    """Return the arguments of munged: all its files in the folder; forced, as it would not run as root."""
    files = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
    return ["--foreground", "--force", *(f"--{what}={folder}/munge.{end}" for what, end in files.items())]


def _start(started: ExitStack, folder: Path, name: str, *arguments: str, ready: Path | None = None) -> None:
    """Start a program that stays in the foreground, and have it ended with the others."""
    with (folder / f"{name}.out").open("a") as log:
        process = subprocess.Popen(
            [str(find_program(name)), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C ends this script, which then ends the jobs first
        )
    started.callback(_end, process)
    deadline = time.monotonic() + START_SECONDS
    while ready is not None and not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{name} does not start:\n{_tail(folder)}")
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for_nodes(folder: Path, environment: dict[str, str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    states = "none"
    while time.monotonic() < deadline:
        states = _asked(["sinfo", "--noheader", "--Node", "--format=%T"], environment)
        if states.split() == ["idle"] * len(NODES):
            return
        time.sleep(0.5)
    raise RuntimeError(f"the nodes do not come up ({' '.join(states.split())}):\n{_tail(folder)}")


def _cancel_jobs(environment: dict[str, str]) -> None:
    """Cancel all jobs and wait until none is left, as their processes would outlive those of SLURM."""
    _asked(["scancel", "--me"], environment)
    deadline = time.monotonic() + STOP_SECONDS
    while _asked(["squeue", "--noheader"], environment).strip() and time.monotonic() < deadline:
        time.sleep(0.5)


def _asked(command: list[str], environment: dict[str, str]) -> str:
    """Return the output of a command of SLURM; nothing where SLURM does not answer."""
    asked = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=STOP_SECONDS
    )
    return asked.stdout


def _tail(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(folder.glob("*.out")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder to make, and to remove at the end")
    parser.add_argument("command", nargs="*", help="command to run, after --; without one, wait for Ctrl-C")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with local_slurm(arguments.folder) as environment:
        if arguments.command:
            return subprocess.run(arguments.command, env={**os.environ, **environment}).returncode
        print(f"export SLURM_CONF={environment['SLURM_CONF']}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
