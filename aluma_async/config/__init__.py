"""Typed configuration: reads TOML and the environment into frozen structs; every mistake is a ``ConfigError``."""

from aluma_async.config.config import Config
from aluma_async.config.credentials import Credentials
from aluma_async.config.destinations import (
    DestinationConfig,
    FolderConfig,
    ObjectStoreConfig,
    PluginConfig,
    SqlConfig,
    WebDavConfig,
)
from aluma_async.config.fleet import FleetConfig
from aluma_async.config.sections import (
    AlumaConfig,
    ExporterConfig,
    LimitsConfig,
    RetryConfig,
    RouteConfig,
    ServiceConfig,
)

__all__ = [
    "AlumaConfig",
    "Config",
    "Credentials",
    "DestinationConfig",
    "ExporterConfig",
    "FleetConfig",
    "FolderConfig",
    "LimitsConfig",
    "ObjectStoreConfig",
    "PluginConfig",
    "RetryConfig",
    "RouteConfig",
    "ServiceConfig",
    "SqlConfig",
    "WebDavConfig",
]
