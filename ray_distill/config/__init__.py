"""RunConfig and how it is read."""

from ray_distill.config.load import ConfigError, Loaded, load_config
from ray_distill.config.schema import RoleConfig, RunConfig

__all__ = ["ConfigError", "Loaded", "RoleConfig", "RunConfig", "load_config"]
