"""The state of the machine, without which no figure means anything."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from bench.peers import servers

CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")

LIBRARIES = ("distributer", "uvicorn", "uvloop", "httptools", "redis", "hiredis", "aiohttp", "fastapi", "httpx")


def describe() -> dict[str, str]:
    """Return what the figures depend on, by name, in the order in which it is shown."""
    return {
        "CPU": f"{cpu_model()}, {os.cpu_count()} cores",
        "System": f"{platform.system()} {platform.release()} {platform.machine()}{congestion_control()}",
        "Load before": load_average(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Libraries": ", ".join(f"{name} {version}" for name in LIBRARIES if (version := version_of(name))),
        "Proxies": ", ".join(f"{name} {version}" for name, version in servers.versions().items()) or "none installed",
    }


def congestion_control() -> str:
    """Return what big bodies over TCP depend on, where the system tells."""
    try:
        return f", TCP {CONGESTION_CONTROL.read_text().strip()}"
    except OSError:
        return ""


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model"):
                return value.strip()
    except OSError:
        pass
    try:
        argv = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return platform.processor() or "unknown CPU"


def load_average() -> str:
    """Return the load of the last minute: well above 0 before a run, others use the machine."""
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"


def version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
