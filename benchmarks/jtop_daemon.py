"""The real service of jetson-stats over a tree of files in place of an Orin's, in a mount namespace of its own.

Nothing of the machine is touched but an empty folder ``/fake_sys``, which goes again: the service's socket, its group
and its configuration are seen inside the namespace alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.power_trees import NX_SENSORS, write_ina3221
from heartvit_edge.power.jtop import CLIENT

PATIENCE_S = 60
FAKE_SYS = Path("/fake_sys")

SERVICE = """
import os, sys, pathlib
folder, version = pathlib.Path(sys.argv[1]), sys.argv[2]
os.environ["JTOP_TESTING"] = "1"
os.environ["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
import jtop.core.hardware, jtop.core.config
jtop.core.hardware.get_x86_64_variables = lambda: {}
jtop.core.config.get_config_service = lambda *_: str(folder / "config")
from jtop.service import JtopServer
server = JtopServer(force=True)
if version:
    server._version = version
server.loop_for_ever()
"""

NAMESPACE = """
set -e
mount --make-rprivate /
mount --bind {sysfs} /fake_sys
mount -t tmpfs none /run
cp /etc/group /run/group
echo "jtop:x:64999:" >> /run/group
mount --bind /run/group /etc/group
touch {folder}/ready
exec sleep 100000
"""

NVPMODEL = """#!/bin/sh
mode=$(cat {board})
case "$1" in
  -p) echo "PM_CONFIG: DEFAULT=30W(2)"
      n=0; for name in MAXN 15W 30W; do echo "POWER_MODEL: ID=$n NAME=$name"; n=$((n+1)); done ;;
  -q) echo "NV Power Mode: $mode"; case $mode in MAXN) echo 0 ;; 15W) echo 1 ;; *) echo 2 ;; esac ;;
  -m) case $2 in 0) m=MAXN ;; 1) m=15W ;; *) m=30W ;; esac; printf %s $m > {board} ;;
esac
"""


def why_not() -> str | None:
    """Return why the service cannot run here; None if it can."""
    if not sys.platform.startswith("linux"):
        return "the service of jetson-stats runs on Linux alone"
    if os.geteuid() != 0:
        return "the service of jetson-stats, and a mount namespace, need root"
    if find_spec("jtop") is None:
        return "jetson-stats is not installed: pip install jetson-stats"
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        return "unshare and nsenter are not installed: apt install util-linux"
    if subprocess.run(["unshare", "-m", "mount", "--make-rprivate", "/"], capture_output=True, check=False).returncode:
        return "this container may not make a mount namespace: docker run --cap-add SYS_ADMIN"
    return None


class Daemon:
    """One service, and the tree that it reads.

    Attributes:
        currents: The file of each rail's current by its label, in mA at 5 V.
        board: The file that holds the name of the board's power mode.
        client: What runs our client where it sees this service.
        inside: What runs any command there.
    """

    def __init__(self, folder: Path, holder: int, currents: dict[str, Path]) -> None:
        """Remember the tree and the process that holds the namespace."""
        self.currents = currents
        self.board = folder / "mode"
        self.inside = ("nsenter", "-t", str(holder), "-m", "--")
        self.client = (*self.inside, *CLIENT)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, version: str = "") -> None:
        """Start the service, of another version where one is given, and wait until it listens."""
        command = [*self.inside, sys.executable, "-c", SERVICE, str(self._folder), version]
        log = (self._folder / "service.log").open("wb")
        self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        log.close()
        end = time.monotonic() + PATIENCE_S
        while subprocess.run([*self.inside, "test", "-S", "/run/jtop.sock"], check=False).returncode:
            assert self._process.poll() is None, (self._folder / "service.log").read_text()
            assert time.monotonic() < end, (self._folder / "service.log").read_text()
            time.sleep(0.05)
        time.sleep(0.2)  # the socket is there a moment before its mode is set

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the service and all of its processes."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def end(self) -> None:
        """Kill the service, stopped or not."""
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.wait()


def write(file: Path, text: object) -> None:
    """Write a file of the tree."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def write_orin(sysfs: Path, sensors: Mapping[str, Sequence[str]] = NX_SENSORS) -> dict[str, Path]:
    """Write what the service reads of an Orin, by default an NX, and return the file of each rail's current."""
    currents = write_ina3221(sysfs, sensors)
    (sysfs / "bus/i2c/devices").mkdir()
    for address in sensors:
        driver = sysfs / "bus/i2c/drivers/ina3221" / address
        for number in (1, 2, 3):
            write(driver / f"hwmon/hwmon3/curr{number}_max", 32760)
            write(driver / f"hwmon/hwmon3/curr{number}_crit", 32760)
        write(driver / "name", "ina3221")
        (sysfs / "bus/i2c/devices" / address).symlink_to(f"../drivers/ina3221/{address}")
    lines = [f"cpu{n} 100 0 100 1000 0 0 0 0 0 0" for n in ("", 0, 1, 2, 3)]
    write(sysfs / "stat", "\n".join(lines))
    for cpu in range(4):
        folder = sysfs / f"devices/system/cpu/cpu{cpu}/cpufreq"
        for kind in ("scaling", "cpuinfo"):
            for which, value in (("min", 115_200), ("max", 1_984_000), ("cur", 1_984_000)):
                write(folder / f"{kind}_{which}_freq", value)
        write(folder / "scaling_governor", "schedutil")
    gpu = sysfs / "devices/platform/17000000.gpu/devfreq/17000000.gpu"
    for name, value in (("cur", 918_000_000), ("min", 306_000_000), ("max", 918_000_000)):
        write(gpu / f"{name}_freq", value)
    write(gpu / "governor", "nvhost_podgov")
    for name, value in (("load", 500), ("railgate_enable", 1), ("tpc_pg_mask", 0), ("enable_3d_scaling", 1)):
        write(gpu / "device" / name, value)
    write(gpu / "device/of_node/name", "gpu")
    (sysfs / "class/devfreq").mkdir(parents=True)
    (sysfs / "class/devfreq/17000000.gpu").symlink_to("../../devices/platform/17000000.gpu/devfreq/17000000.gpu")
    for name, value in (("rate", 3_199_000_000), ("max_rate", 3_199_000_000), ("min_rate", 204_000_000)):
        write(sysfs / "kernel/debug/bpmp/debug/clk/emc" / name, value)
    write(sysfs / "kernel/debug/bpmp/debug/clk/emc/mrq_rate_locked", 0)
    write(sysfs / "kernel/actmon_avg_activity/mc_all", 100_000)
    return currents


@contextlib.contextmanager
def orin_board(folder: Path, sensors: Mapping[str, Sequence[str]] = NX_SENSORS, mode: str = "30W") -> Iterator[Daemon]:
    """Give an Orin, by default an NX, whose service is not started yet."""
    currents = write_orin(folder / "sys", sensors)
    (folder / "config").mkdir()
    (folder / "bin").mkdir()
    (folder / "mode").write_text(mode)
    (folder / "bin/nvpmodel").write_text(NVPMODEL.format(board=folder / "mode"))
    (folder / "bin/nvpmodel").chmod(0o755)
    ours = not FAKE_SYS.exists()
    FAKE_SYS.mkdir(exist_ok=True)
    script = NAMESPACE.format(sysfs=folder / "sys", folder=folder)
    holder = subprocess.Popen(["unshare", "-m", "bash", "-c", script])
    daemon = Daemon(folder, holder.pid, currents)
    try:
        end = time.monotonic() + PATIENCE_S
        while not (folder / "ready").exists():
            assert holder.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        yield daemon
    finally:
        daemon.end()
        holder.kill()
        holder.wait()
        if ours:
            FAKE_SYS.rmdir()
