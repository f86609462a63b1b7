"""The settings of one backend, from the environment."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Hold the settings of one backend. Each is read from the environment, with the prefix `BACKEND_`."""

    model_config = SettingsConfigDict(env_prefix="BACKEND_")

    latency_s: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    """How long each item and ping route waits before it acts, in seconds: stands for work that takes time.

    Default 0, no wait. `/healthz` never waits. Example: `BACKEND_LATENCY_S=0.05`.
    """
