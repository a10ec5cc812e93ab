"""Read and check RunConfig, the configuration of a run.

The driver reads it before anything starts, and every process gets it pickled. Each section has a file; `schema` joins
them.
May import: methods, data, models and the leaves; no Ray. Checks load no network and no weights.
A new key owes one default, in its section, and an error that names key, value and remedy.
"""

from ray_distill.config.load import ConfigError, Loaded, load_config
from ray_distill.config.roles import RoleConfig
from ray_distill.config.schema import RunConfig

__all__ = ["ConfigError", "Loaded", "RoleConfig", "RunConfig", "load_config"]
