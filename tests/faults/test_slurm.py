"""The Slurm script of docs/cluster.md on a Slurm of one node, where `slurm-wlm` and `munge` are installed.

It builds, is told by SIGUSR1 that its time is nearly up, stops, and its run goes on to the same bytes. Only where
MAGPIE_TEST_SLURM=1 is set: at its end `ray symmetric-run` stops every Ray of this user on the machine, that of other
tests as well.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builds import scripted, tree
from command import done, magpie, write_recipe

DOCS = Path(__file__).parents[2] / "docs" / "cluster.md"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol")
WITHIN = 240.0

CONFIG = """
ClusterName=one
SlurmctldHost={host}
SlurmUser=root
AuthInfo=socket={folder}/munge.sock
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
SlurmctldPort={port}
SlurmdPort={next_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} CPUs=1 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which the commands of a Slurm of one node work."""
    if os.environ.get("MAGPIE_TEST_SLURM") != "1":
        pytest.skip("it stops every Ray on this machine; set MAGPIE_TEST_SLURM=1 where there is no other")
    if os.geteuid() != 0:
        pytest.skip("a Slurm of one's own wants root")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"Slurm is not installed: no {', '.join(missing)}")
    pytest.importorskip("ray", reason="Ray is not installed")
    folder = tmp_path / "slurm"
    for name in ("spool", "state"):
        (folder / name).mkdir(parents=True)
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    host = socket.gethostname().partition(".")[0]
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, port=port, next_port=port + 1))
    munge = [f"--{name}={folder}/{file}" for name, file in MUNGE.items()]
    for command in (["munged", "--force", *munge], ["slurmctld", "-f", config], ["slurmd", "-f", config]):
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    yield os.environ | {
        "SLURM_CONF": str(config),
        "SCRATCH": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for name in ("slurmd", "slurmctld", "munge"):
        try:
            os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)
        except (OSError, ValueError):
            continue


MUNGE = {
    "key-file": "key", "socket": "munge.sock", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "seed",
}  # fmt: skip


def wait_for(happened: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WITHIN
    while not happened():
        assert time.monotonic() < end, what
        time.sleep(0.5)


@pytest.mark.slow
def test_the_script_builds_stops_and_goes_on(tmp_path: Path, slurm: dict[str, str]) -> None:
    models = scripted(tokens_per_second=20, slots=8, min_tokens=20, max_tokens=40)
    recipe = write_recipe(tmp_path / "small.yaml", models=models, tag=None, extend=None, filter=None)
    found = re.search(r"```sh\n(#!/bin/bash\n.*?)```", DOCS.read_text(), re.DOTALL)
    assert found is not None
    script = found[1].replace("--nodes=2", "--nodes=1").replace("#SBATCH --gpus-per-node=8\n", "")
    job, said, run = tmp_path / "job.sh", tmp_path / "said.txt", tmp_path / "pro"
    job.write_text(script.replace("build pro", f"build {recipe} --replicas 1"))

    def slurm_says(*command: str) -> str:
        return subprocess.run(
            command, env=slurm, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    number = slurm_says("sbatch", "--parsable", f"--output={said}", str(job)).strip()
    wait_for(lambda: any((run / "steps").rglob("*.parquet")), "no shard is made")
    slurm_says("scancel", "--signal=USR1", "--batch", number)
    wait_for(lambda: "return code 130" in said.read_text(), "the build has not stopped")
    assert "stopped by SIGUSR1" in said.read_text()
    wait_for(lambda: "Restarts=1" in slurm_says("scontrol", "show", "job", number), "it was not requeued")
    slurm_says("scancel", number)
    done(magpie("build", recipe, "--out", run))
    done(magpie("build", recipe, "--out", tmp_path / "whole"))
    assert tree(run) == tree(tmp_path / "whole")
