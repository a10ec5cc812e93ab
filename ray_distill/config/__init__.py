"""RunConfig, the configuration of a run, and how it is read."""

from ray_distill.config.load import ConfigError, Loaded, load_config
from ray_distill.config.roles import RoleConfig
from ray_distill.config.schema import RunConfig

__all__ = ["ConfigError", "Loaded", "RoleConfig", "RunConfig", "load_config"]
