"""Settings: flags over environment over file; a mistake is one line that names the setting, and shows no password."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from distributer.config import Settings, load, require_backends
from distributer.errors import ConfigError
from distributer.state.redis_client import check_url, redacted

HERE = Path("distributer.toml")


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = clear_environment()
    yield
    clear_environment()
    os.environ.update(before)


def clear_environment() -> dict[str, str]:
    """Unset all that is ours, and return what it was."""
    return {name: os.environ.pop(name) for name in list(os.environ) if name.upper().startswith("DISTRIBUTER_")}


def set_environment(**settings: str) -> None:
    os.environ.update({f"DISTRIBUTER_{name}": value for name, value in settings.items()})


def mistake(config: Path | None = None, /, **flags: object) -> str:
    """Load wrong settings, and return the one line that says so."""
    with pytest.raises(ConfigError) as raised:
        load(config, **flags)
    line = str(raised.value)
    assert line
    assert line.isprintable(), "one line, without control characters"
    return line


# Where settings come from.


def test_everything_has_a_default_but_the_backends() -> None:
    settings = load()
    assert settings == Settings()
    assert (settings.host, settings.port, settings.replicas) == ("127.0.0.1", 8080, 1)
    with pytest.raises(ConfigError, match=r"^backend: none is given"):
        require_backends(settings)
    require_backends(load(backends=("http://127.0.0.1:8000",)))


def test_flags_go_before_the_environment_before_the_file() -> None:
    HERE.write_text('host = "file"\nport = 1\nreplicas = 1\nprefix = "file"\n')
    set_environment(HOST="environment", PORT="2", REPLICAS="2")
    settings = load(host="flag", port=3, replicas=None)
    assert (settings.host, settings.port) == ("flag", 3)
    assert settings.replicas == 2, "a flag that is not given does not count"
    assert settings.prefix == "file"
    assert settings.admin_host == "127.0.0.1"


def test_a_setting_that_is_overruled_need_not_be_right() -> None:
    HERE.write_text("port = 0\n")
    set_environment(PORT="x")
    assert load(port=8080).port == 8080


def test_the_file_is_the_one_named_by_flag_or_environment_or_the_usual_one() -> None:
    HERE.write_text("port = 1\n")
    Path("second.toml").write_text("port = 2\n")
    Path("third.toml").write_text("port = 3\n")
    assert load().port == 1
    set_environment(CONFIG="second.toml")
    assert load().port == 2
    assert load(Path("third.toml")).port == 3
    assert os.environ["DISTRIBUTER_CONFIG"] == "third.toml", "the workers read the same file"


@pytest.mark.parametrize("name", ["host", "HOST", "Host"])
def test_the_case_of_a_variable_does_not_matter(name: str) -> None:
    os.environ[f"DISTRIBUTER_{name}"] = "0.0.0.0"
    assert load().host == "0.0.0.0"


@pytest.mark.parametrize("name", ["PORT", "DISTRIBUTERPORT", "X_DISTRIBUTER_PORT"])
def test_other_variables_are_no_affair_of_ours(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    assert load().port == 8080


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().port = 1


# Backends.


@pytest.mark.parametrize(
    "value",
    ["http://a:80,http://b:8001", " http://a:80 ,, http://b:8001, "],
)
def test_backends_in_the_environment_are_separated_by_commas(value: str) -> None:
    set_environment(BACKENDS=value)
    assert load().backends == ("http://a:80", "http://b:8001")


def test_backends_in_the_file_are_a_list() -> None:
    HERE.write_text('backends = ["http://b", "http://a"]\n')
    assert [backend.id for backend in load().backend_list] == ["b:80", "a:80"], "in their order"


@pytest.mark.parametrize("url", ["http://A", "http://a/", "http://a:80", "HTTP://a:80/"])
def test_a_backend_has_one_spelling(url: str) -> None:
    assert load(backends=(url,)).backends == ("http://a:80",)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("", ()),
        ("127.0.0.1", ("127.0.0.1",)),
        (" 10.0.0.0/8, ::1 ,2001:db8::/32,unix,", ("10.0.0.0/8", "::1", "2001:db8::/32", "unix")),
    ],
)
def test_trusted_proxies_are_addresses_and_networks_separated_by_commas(value: str, read: tuple[str, ...]) -> None:
    set_environment(TRUSTED_PROXIES=value)
    assert load().trusted_proxies == read
    clear_environment()
    HERE.write_text(f"trusted_proxies = {list(read)!r}\n")
    assert load().trusted_proxies == read


# Mistakes.

WRONG = [
    ("backends", "127.0.0.1:8000"),
    ("backends", "https://a"),
    ("backends", "http://"),
    ("backends", "http://a:x"),
    ("backends", "http://a:0"),
    ("backends", "http://a:65536"),
    ("backends", "http://a/path"),
    ("backends", "http://a?query"),
    ("backends", "http://[::1"),
    ("backends", "http://a,http://a:80"),
    ("backends", "http://a b"),
    ("backends", "http://a\nb"),
    ("redis", ""),
    ("redis", "127.0.0.1:6379"),
    ("redis", "http://127.0.0.1:6379"),
    ("redis", "redis://127.0.0.1:x"),
    ("prefix", ""),
    ("prefix", "a b"),
    ("prefix", "a\n"),
    ("prefix", "a" * 65),
    ("host", ""),
    ("port", ""),
    ("port", "0"),
    ("port", "65536"),
    ("port", "http"),
    ("port", "80\n81"),
    ("replicas", "0"),
    ("replicas", "257"),
    ("admin_host", ""),
    ("admin_port", "0"),
    ("admin_port", "none"),
    ("wait_redis_s", "-1"),
    ("wait_redis_s", "nan"),
    ("wait_redis_s", "inf"),
    ("trusted_proxies", "proxy.example"),
    ("trusted_proxies", "10.0.0.1/8"),
    ("trusted_proxies", "10.0.0.0/33"),
    ("trusted_proxies", "127.0.0.1,*"),
    ("trusted_proxies", "::ffff:10.0.0.0/104"),
    ("trusted_proxies", "127.0.0.1:80"),
    ("forwarded_header", "maybe"),
    ("host_header", "keep"),
    ("via_name", ""),
    ("via_name", "two words"),
    ("via_name", "a,b"),
    ("via_name", "caf\u00e9"),
    ("via_name", "a" * 65),
    ("backend_max_in_flight", "0"),
    ("backend_max_waiting", "-1"),
    ("upstream_lifetime_s", "-1"),
    ("upstream_lifetime_s", "inf"),
    ("probe_path", "healthz"),
    ("probe_path", "/a b"),
    ("probe_path", "/a#b"),
    ("probe_path", "/caf\u00e9"),
    ("probe_path", "/a\nX: b"),
    ("probe_status", ""),
    ("probe_status", "2xx"),
    ("probe_status", "199"),
    ("probe_status", "200-"),
    ("probe_status", "399-200"),
    ("probe_status", "200,600"),
    ("probe_interval_s", "-1"),
    ("probe_timeout_s", "0"),
    ("probe_rise", "0"),
    ("probe_fall", "0"),
    ("ejection_failures", "-1"),
    ("ejection_s", "0"),
    ("ejection_max_s", "0"),
    ("retry_budget", "-0.1"),
    ("retry_budget", "1.5"),
    ("retry_budget", "nan"),
    ("retry_floor_per_s", "-1"),
    ("retry_floor_per_s", "inf"),
    ("owner_down", "move"),
    ("max_client_connections", "0"),
    ("max_connections_per_address", "-1"),
    ("max_head_bytes", "100"),
    ("max_fields", "0"),
    ("max_target_bytes", "0"),
    ("max_target_bytes", "32769"),  # more than the head that it is part of
    ("max_body_bytes", "-1"),
    ("max_body_bytes", "1 GiB"),
    ("answer_buffer_bytes", "-1"),
    ("sticky_ttl_s", "-1"),
    ("sticky_ttl_s", "0.5"),
    ("sticky_ttl_s", "inf"),
    ("unbound", "ask"),
    ("list_path", "items/"),
    ("list_path", "/items/?all"),
    ("list_path", "/it ems"),
    ("tunnel_drain_s", "-1"),
    ("tunnel_drain_s", "inf"),
    ("worker_timeout_s", "-1"),
    ("worker_timeout_s", "0.9"),
    ("worker_timeout_s", "inf"),
    ("routing_headers", "maybe"),
    ("access_log", "2"),
    ("log_level", "loud"),
    ("log_level", "INFO\nforged"),
    ("log_format", "xml"),
    *(
        (name, value)
        for name in (
            "redis_budget_s",
            "owner_wait_s",
            "claim_timeout_s",
            "connect_timeout_s",
            "first_byte_timeout_s",
            "idle_timeout_s",
            "upstream_keep_alive_s",
            "client_idle_timeout_s",
            "head_timeout_s",
            "tunnel_idle_timeout_s",
            "body_timeout_s",
            "backend_wait_timeout_s",
            "drain_timeout_s",
        )
        for value in ("0", "-1", "86401", "nan", "inf", "soon")
    ),
]


def test_every_setting_has_a_wrong_value_here() -> None:
    assert {name for name, _ in WRONG} == set(Settings.model_fields)


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_is_named_in_one_line_wherever_it_comes_from(name: str, value: str) -> None:
    set_environment(**{name.upper(): value})
    assert mistake().startswith(f"{name}: ")
    clear_environment()
    assert mistake(**{name: value}).startswith(f"{name}: ")
    text = value.replace("\n", "\\n")
    HERE.write_text(f'{name} = "{text}"\n')
    assert mistake().startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("port = 8080.5", "port: Input should be a valid integer"),
        ("port = [8080]", "port: Input should be a valid integer"),
        ("[port]\nnumber = 8080", "port: Input should be a valid integer"),
        ("backends = 8000", "backends: "),
        ("backends = [8000]", "backends: "),
        ("redis = 6379", "redis: Input should be a valid string"),
        ("[redis]\nurl = 'redis://a'", "redis: Input should be a valid string"),
    ],
)
def test_a_setting_of_another_type_is_named(setting: str, line: str) -> None:
    HERE.write_text(setting + "\n")
    assert mistake().startswith(line)


def test_all_mistakes_are_told_at_once() -> None:
    set_environment(PORT="x", REPLICAS="0")
    line = mistake(host="")
    assert all(f"{name}: " in line for name in ("host", "port", "replicas"))


def test_the_wrong_value_is_shown() -> None:
    assert mistake(port="http").endswith("not 'http'")


def test_a_setting_that_does_not_exist_is_named() -> None:
    assert mistake(prot=1) == "prot: there is no such setting"
    HERE.write_text("prot = 1\n")
    assert mistake() == "prot: there is no such setting"
    HERE.write_text("[section]\nport = 1\n")
    assert mistake() == "section: there is no such setting"
    HERE.write_text('"a\\nb" = 1\n')
    assert mistake().endswith(": there is no such setting")
    HERE.unlink()
    set_environment(PROT="1")
    assert mistake() == "DISTRIBUTER_PROT: there is no such setting"


def test_a_file_that_was_named_must_be_there() -> None:
    assert mistake(Path("none.toml")) == "config: there is no file none.toml"
    set_environment(CONFIG="other.toml")
    assert mistake() == "config: there is no file other.toml"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"port =\n", "is not TOML"),
        (b"port: 1\n", "is not TOML"),
        (b"\xff\n", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_settings_file_is_named(content: bytes | None, said: str) -> None:
    if content is None:
        HERE.mkdir()
    else:
        HERE.write_bytes(content)
    line = mistake()
    assert line.startswith(f"config: {HERE} ")
    assert said in line


# Passwords.

SECRET = "s3cr3t"
WITH_PASSWORD = [
    ("redis", f"redis://user:{SECRET}@"),
    ("redis", f"redis://user:{SECRET}@host:x"),
    ("redis", f"redis://:{SECRET}@host:0"),
    ("redis", f"redis://user:{SECRET}@host:65536/0"),
    ("redis", f"redis://user:{SECRET}@host/zero"),
    ("redis", f"rediss://user:{SECRET}@{SECRET}@host/zero"),
    ("redis", f"http://user:{SECRET}@host"),
    ("redis", f"unix://user:{SECRET}@"),
    ("redis", f"user:{SECRET}@host"),
    ("redis", f"redis+sentinel://user:{SECRET}@host:1"),
    ("redis", f"redis+sentinel://user:{SECRET}@host:x/service"),
    ("redis", f"redis+sentinel://user:{SECRET}@host:1/service/zero"),
    ("redis", f"redis://[user:{SECRET}@host"),
    ("backends", f"http://user:{SECRET}@host"),
    ("backends", f"https://user:{SECRET}@host"),
    ("backends", f"http://user:{SECRET}@host:x"),
    ("backends", f"http://host,https://user:{SECRET}:{SECRET}@host"),
    ("backends", f"http://user:{SECRET}@"),
    # Not percent-encoded as it ought to be, so a part of it is taken for a port, a database, a sentinel or a path.
    ("redis", f"redis://user:{SECRET}/more@host"),
    ("redis", f"redis://user:{SECRET}#more@host"),
    ("redis", f"redis://user:6379/{SECRET}@host"),
    ("redis", f"redis+sentinel://user:{SECRET}/more@a:1,b:2/service"),
    ("redis", f"redis://host/zero?password={SECRET}"),
]


@pytest.mark.parametrize(("name", "value"), WITH_PASSWORD)
def test_a_mistake_shows_no_password(name: str, value: str) -> None:
    set_environment(**{name.upper(): value})
    assert SECRET not in mistake()
    clear_environment()
    assert SECRET not in mistake(**{name: value.split(",") if name == "backends" else value})
    HERE.write_text(f'{name} = "{value}"\n')
    assert SECRET not in mistake()


def test_nor_does_its_traceback() -> None:
    with pytest.raises(ConfigError) as raised:
        load(redis=f"http://user:{SECRET}@host", port="x", backends=5)
    cause: BaseException | None = raised.value
    while cause is not None:
        assert SECRET not in str(cause)
        cause = cause.__cause__ or cause.__context__


def test_nor_do_the_settings_when_they_are_shown() -> None:
    settings = load(redis=f"redis://user:{SECRET}@host")
    assert SECRET in settings.redis
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)


REDACTED = [
    ("redis://host:6379/0", "redis://host:6379/0"),
    ("redis://user@host", "redis://user@host"),
    (f"redis://user:{SECRET}@host:6379/0", "redis://user:***@host:6379/0"),
    (f"redis://:{SECRET}@host", "redis://:***@host"),
    (f"rediss://user:a@{SECRET}:b@host", "rediss://user:***@host"),
    (f"redis://user:a/{SECRET}#b?c@host", "redis://user:***@host"),
    (f"unix://user:{SECRET}@/path", "unix://user:***@/path"),
    (f"redis+sentinel://user:{SECRET}@a:1,b:2/service", "redis+sentinel://user:***@a:1,b:2/service"),
]


@pytest.mark.parametrize(("url", "shown"), REDACTED)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


# Redis.


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1",
        "redis://127.0.0.1:6379",
        "redis://127.0.0.1:6379/",
        "redis://127.0.0.1:6379/15",
        "rediss://user:password@redis.example:6380/0",
        "redis://:pass%2Fword@host",
        "redis://[::1]:6379",
        "unix:///run/redis.sock",
        "unix://user:password@/run/redis.sock?db=1",
        "redis+sentinel://a/service",
        "redis+sentinel://a:26379,b:26380/service/3",
        "redis+sentinel://user:pass%2Cword@a,b/service",
    ],
)
def test_a_url_of_redis_is_taken(url: str) -> None:
    check_url(url)
    assert load(redis=url).redis == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "is none of redis://, rediss://, unix://, redis+sentinel://"),
        ("127.0.0.1:6379", "is none of"),
        ("https://127.0.0.1", "is none of"),
        ("redis://", "names no host"),
        ("redis:///0", "names no host"),
        ("redis://:6379", "names no host"),
        ("redis://host:0", "port 0"),
        ("redis://host:port", "bad port"),
        ("redis://host:65536", "bad port"),
        ("redis://host/zero", "the database is a number"),
        ("redis://host/-1", "the database is a number"),
        ("redis://host/0/1", "the database is a number"),
        ("unix://", "needs a path"),
        ("redis+sentinel://", "redis+sentinel://host:port,host:port/service"),
        ("redis+sentinel://host", "redis+sentinel://host:port,host:port/service"),
        ("redis+sentinel://host/", "redis+sentinel://host:port,host:port/service"),
        ("redis+sentinel:///service", "redis+sentinel://host:port,host:port/service"),
        ("redis+sentinel://a,,b/service", "no sentinel address"),
        ("redis+sentinel://a:port/service", "no sentinel address"),
        ("redis+sentinel://a/service/zero", "the database is a number"),
    ],
)
def test_what_is_no_url_of_redis_is_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError) as raised:
        check_url(url)
    assert said in str(raised.value)
    assert said in mistake(redis=url)
