"""Settings: flags over environment over file. Each is documented in place, and validated at start.

Every field `name` is also `DISTRIBUTER_NAME` in the environment and `name` in `distributer.toml`. Times are seconds.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from distributer.errors import ConfigError
from distributer.model import Backend
from distributer.routing.health import parse_statuses
from distributer.state.redis_client import check_url, redacted
from distributer.wire.elements import is_via_name
from distributer.wire.node import TrustedProxies

ENV_PREFIX = "DISTRIBUTER_"
CONFIG_VARIABLE = "DISTRIBUTER_CONFIG"
DEFAULT_FILE = Path("distributer.toml")

DEMO_BACKENDS = tuple(f"http://127.0.0.1:{port}" for port in range(8000, 8004))

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65_535)]


class Settings(BaseSettings):
    """All that is settable about a replica and its supervisor."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True
    )

    backends: Annotated[tuple[str, ...], NoDecode] = ()
    """Base URLs of the backends, in ring order. At least one, each at most once. In the environment: comma-separated.
    Example: `http://10.0.0.1:8000,http://10.0.0.2:8000`."""

    redis: str = Field(default="redis://127.0.0.1:6379/0", repr=False)
    """Where the shared state lives: `redis://`, `rediss://`, `unix://` or `redis+sentinel://host,host/service`."""

    prefix: str = Field(default="distributer", pattern=r"^[A-Za-z0-9_.{}:-]{1,64}$")
    """Prefix of all Redis keys. On Redis Cluster: `{distributer}`."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address on which clients are served. `0.0.0.0` or `::` for all interfaces."""

    port: Port = 8080
    """Port on which clients are served."""

    replicas: int = Field(default=1, ge=1, le=256)
    """Worker processes behind that port. One for each core that the distributer may use."""

    admin_host: str = Field(default="127.0.0.1", min_length=1)
    """Address of the control plane. Loopback unless you know who else can reach it: it asks for no password yet."""

    admin_port: int | None = Field(default=None, ge=1, le=65_535)
    """Port of the control plane (`/healthz`, `/readyz`, `/api/v1/status`). Unset: no control plane."""

    wait_redis_s: float = Field(default=30.0, ge=0, le=86_400)
    """How long `serve` waits at its start for a Redis that is not there yet."""

    redis_budget_s: Seconds = 0.1
    """The longest that one round trip to Redis may take. Then requests are served degraded, and the link is renewed."""

    claim_timeout_s: Seconds = 60.0
    """The longest that a create or delete of an item may take. Then its outcome is found out by asking the backend."""

    sticky_ttl_s: float = Field(default=0.0, ge=0, le=10 * 365 * 86_400, allow_inf_nan=False)
    """How long a binding is kept that no request uses; 0: for ever. Then the item is forgotten, though its backend may
    still have it. Longer than any item is left alone, or as long as backends keep theirs."""

    unbound: Literal["rotate", "locate"] = "rotate"
    """What becomes of a request for an item that is bound nowhere. `rotate`: it goes round. `locate`: first all
    backends are asked for the item, and it is bound to the one that has it."""

    list_path: str | None = Field(default=None, pattern=r"^/[!-~]{0,1023}$")
    """Path at which backends list the items that they have, for `distributer sticky rebuild`. Unset: they cannot."""

    connect_timeout_s: Seconds = 2.0
    """The longest that connecting to a backend may take."""

    first_byte_timeout_s: Seconds = 60.0
    """The longest that a backend may be silent before the first byte of its answer."""

    idle_timeout_s: Seconds = 60.0
    """The longest that a backend may be silent within its answer."""

    upstream_keep_alive_s: Seconds = 4.0
    """How long an idle connection to a backend is kept. Less than the backend keeps it (uvicorn: 5), or requests are
    sent into closing connections."""

    upstream_lifetime_s: float = Field(default=300.0, ge=0, le=86_400)
    """How old a connection to a backend may be to be used again; 0: as old as it likes. Behind a name or a balancer,
    connections that are never renewed never reach a new machine."""

    backend_max_in_flight: int = Field(default=512, ge=1, le=65_535)
    """Requests of one replica that one backend has at a time, each on a connection of its own. Others wait."""

    backend_max_waiting: int = Field(default=1024, ge=0, le=1_000_000)
    """Requests of one replica that wait for one backend. More are refused with 503."""

    backend_wait_timeout_s: Seconds = 2.0
    """The longest that a request waits for a backend that has as many as it may. Then it is refused with 503."""

    retry_budget: float = Field(default=0.2, ge=0, le=1)
    """How many of the requests of the last ten seconds may be sent again, when a connection broke after they were sent:
    a fifth. 0: none is ever sent again. A connection that could not be made counts for nothing here."""

    retry_floor_per_s: float = Field(default=3.0, ge=0, le=1_000_000, allow_inf_nan=False)
    """What may be sent again besides, for each of those seconds, however few requests there were."""

    owner_down: Literal["fail", "wait", "rebind"] = "fail"
    """What becomes of a request for an item whose owner cannot be reached. `fail`: 503. `wait`: it waits for the owner.
    `rebind`: the item is given to another backend, which has nothing of it: docs/consistency.md has the danger."""

    owner_wait_s: Seconds = 10.0
    """How long a request waits for its owner, if `owner_down` is `wait`. Then 503."""

    max_client_connections: int = Field(default=10_000, ge=1, le=1_000_000)
    """Client connections of one replica. More are turned away with 503. Lowered to what RLIMIT_NOFILE allows."""

    max_connections_per_address: int = Field(default=0, ge=0, le=1_000_000)
    """Connections of one replica from one client address; 0: no bound. A balancer in front is one address."""

    max_head_bytes: int = Field(default=32 * 1024, ge=1024, le=1 << 20)
    """The largest head of a request. Larger ones are refused with 431."""

    max_fields: int = Field(default=100, ge=8, le=10_000)
    """The most fields of a request's head. More are refused with 431."""

    max_target_bytes: int = Field(default=8 * 1024, ge=64, le=1 << 20)
    """The longest target (path and query) of a request. Longer ones are refused with 414."""

    max_body_bytes: int = Field(default=1 << 30, ge=0, le=1 << 50)
    """The largest body of a request; 0: no bound. Larger ones are refused with 413."""

    answer_buffer_bytes: int = Field(default=256 * 1024, ge=0, le=1 << 30)
    """How much of an answer is taken from the backend before a slow client has taken it. Up to that size, a slow
    client keeps no backend busy."""

    head_timeout_s: Seconds = 10.0
    """The longest that the head of a request may take, from its first byte; that of a connection's first request, from
    the connection's opening. Then 408."""

    body_timeout_s: Seconds = 30.0
    """Within so long, 1 KiB more of a request's body must have come, or its rest. Else 408."""

    probe_path: str = Field(default="", max_length=1024)
    """What a backend is asked for to find out whether it is up, such as `/healthz`. Empty: it is enough if it takes
    connections, for nobody knows what an application answers to what. That does not see one that hangs: name a path
    where there is one that is cheap."""

    probe_status: str = "200-399"
    """The statuses of the answer to that which say that it is up. Example: `200,204`."""

    probe_interval_s: float = Field(default=2.0, ge=0, le=86_400)
    """How often a backend is probed, by one replica for all. Every 0.5 s while its health may be about to change.
    0: never; each is up, but for ejections."""

    probe_timeout_s: Seconds = 1.0
    """The longest that a probe may take, connecting included."""

    probe_rise: int = Field(default=2, ge=1, le=100)
    """Probes in a row that must pass before a backend that was down is up, or a new one joins the rotation."""

    probe_fall: int = Field(default=3, ge=1, le=100)
    """Probes in a row that must fail before a backend that was up is down."""

    ejection_failures: int = Field(default=5, ge=0, le=1_000_000)
    """Requests to one backend that must fail in a row, over all replicas, before it is ejected from the rotation though
    its probes pass; 0: none is ejected. Failures are refused and broken connections, timeouts, 502, 503 and 504."""

    ejection_s: Seconds = 30.0
    """How long the first ejection lasts; the n-th, n times as long."""

    ejection_max_s: Seconds = 300.0
    """The longest that an ejection lasts. After each such span without one, an ejection is forgotten."""

    client_idle_timeout_s: Seconds = 75.0
    """How long an idle connection of a client is kept. Also the longest that a client may take nothing of its
    answer."""

    tunnel_idle_timeout_s: Seconds = 3600.0
    """How long a WebSocket, or a connection that has switched to another protocol, may carry nothing either way. An
    hour, as HAProxy's manual has it: a browser cannot ping, and many a WebSocket is quiet for minutes. Peers that have
    vanished are found much earlier, by TCP's own probes."""

    drain_timeout_s: Seconds = 30.0
    """After SIGTERM: the longest that requests in flight may take to finish. Likewise tunnels: what is left then is
    cut."""

    tunnel_drain_s: float = Field(default=10.0, ge=0, le=86_400)
    """After SIGTERM: how long WebSockets may go on by themselves. Then they are closed, with status 1012 (Service
    Restart), at the latest 5 s before `drain_timeout_s` is over."""

    worker_timeout_s: float = Field(default=10.0, ge=0, le=86_400)
    """The longest that a process of `serve` may hang: from one whose event loop gives no sign of life for so long, the
    supervisor takes its place away, by SIGKILL, for a successor. 0: no bound, else at least 1."""

    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Whose X-Forwarded-* and Forwarded count: addresses and networks of the proxies in front, `unix` for all peers of
    Unix sockets. What anybody else says of where a request came from is left out. In the environment: comma-separated.
    Example: `127.0.0.1,10.0.0.0/8`."""

    forwarded_header: bool = False
    """Tell backends about the client in `Forwarded` (RFC 7239) too. The proxies that are trusted must then write it, or
    leave out what clients send of it."""

    host_header: Literal["preserve", "backend"] = "preserve"
    """Host for the backends: that of the client, or the backend's own address. X-Forwarded-Host has the client's."""

    via_name: str = "distributer"
    """Name of this cluster in Via. A request that has passed it ten times is refused as a loop."""

    routing_headers: bool = False
    """Add `X-Distributer-Backend`, `-Route` and `-Ticket` to answers. They tell clients about the inside: off here, on
    in `distributer up`."""

    access_log: bool = False
    """Log one line for each request."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least serious lines that are logged."""

    log_format: Literal["text", "json"] = "text"
    """Lines for people, or for machines."""

    @field_validator("backends", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("backends")
    @classmethod
    def _canonical(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        urls = tuple(Backend.from_url(url).url for url in value)
        if len(set(urls)) < len(urls):
            raise ValueError("a backend is named more than once")
        return urls

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        TrustedProxies(value)
        return value

    @field_validator("worker_timeout_s", "sticky_ttl_s")
    @classmethod
    def _is_long_enough(cls, value: float) -> float:
        # A loop that is merely busy is late by tenths of a second; and shorter than that no item is left alone.
        if 0 < value < 1:
            raise ValueError("0, or at least 1")
        return value

    @field_validator("via_name")
    @classmethod
    def _is_name(cls, value: str) -> str:
        if len(value) > 64 or not value.isascii() or not is_via_name(value.encode()):
            raise ValueError("a name of up to 64 letters, digits and -._~!#$%&'*+^`|")
        return value

    @field_validator("list_path")
    @classmethod
    def _is_bare_path(cls, value: str | None) -> str | None:
        if value is not None and ("?" in value or "#" in value):
            raise ValueError("a path alone, without a query")
        return value

    @field_validator("probe_path")
    @classmethod
    def _is_path(cls, value: str) -> str:
        if value and not _PATH.fullmatch(value):
            raise ValueError("a path, and a query if need be, as it stands in a request: /healthz")
        return value

    @field_validator("probe_status")
    @classmethod
    def _are_statuses(cls, value: str) -> str:
        parse_statuses(value)
        return value

    @field_validator("max_target_bytes")
    @classmethod
    def _fits_head(cls, value: int, info: ValidationInfo) -> int:
        # The target is part of the head, so a longer one would be refused for the head's size, and never as told here.
        most = info.data.get("max_head_bytes", value)  # absent if it is wrong itself
        if value > most:
            raise ValueError(f"at most max_head_bytes, which is {most}")
        return value

    @field_validator("redis")
    @classmethod
    def _checked(cls, value: str) -> str:
        check_url(value)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, InitSettingsSource(settings_cls, _file_values())

    @property
    def backend_list(self) -> tuple[Backend, ...]:
        """The backends, in ring order."""
        return tuple(Backend.from_url(url) for url in self.backends)


_PATH = re.compile(r"/[!-\"$-~]*")
"""Visible ASCII but `#`."""


def _file_values() -> dict[str, Any]:
    named = os.environ.get(CONFIG_VARIABLE)
    path = Path(named) if named else DEFAULT_FILE
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named:
            raise ConfigError(f"config: there is no file {path}") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config: {path} is not TOML: {error}") from error


def load(config: Path | None = None, **flags: object) -> Settings:
    """Read the settings: flags that are not None, over `DISTRIBUTER_*`, over the file.

    The file is `config`, or the one that DISTRIBUTER_CONFIG names, or `distributer.toml` if that exists. Raises
    ConfigError, naming the setting, if any of them is wrong or unknown.
    """
    if config is not None:
        os.environ[CONFIG_VARIABLE] = str(config)
    known = {*Settings.model_fields, "config"}
    for variable in os.environ:
        name = variable.removeprefix(ENV_PREFIX)
        if name != variable and name.lower() not in known:
            raise ConfigError(f"{variable}: there is no such setting")
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def require_backends(settings: Settings) -> None:
    """Raise ConfigError if there is nothing to distribute to."""
    if not settings.backends:
        raise ConfigError("backend: none is given; name at least one, such as --backend http://127.0.0.1:8000")


def _explain(error: ValidationError) -> str:
    """Say in one line what is wrong: the setting, the rule, the value where it is no secret."""
    lines = []
    for problem in error.errors(include_url=False):
        setting = str(problem["loc"][0]) if problem["loc"] else "settings"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{setting}: there is no such setting")
            continue
        message = problem["msg"].removeprefix("Value error, ")
        value = problem.get("input")
        shown = redacted(value) if isinstance(value, str) else value
        is_said = repr(shown) in message or setting == "redis"
        lines.append(f"{setting}: {message}" if is_said else f"{setting}: {message}, not {shown!r}")
    return _PASSWORD.sub("***", " ".join("; ".join(lines).split()))


_PASSWORD = re.compile(r"(?<=:)(?!//)[^\s@]+(?=@)")
"""Of URLs that are shown because they are wrong, such as that of a backend with a user name."""
