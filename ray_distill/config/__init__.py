"""RunConfig, the configuration of a run, and how it is read.

Read by the driver before anything starts, and pickled to every process. A file per section; `schema` joins them.
May import: methods, data, models and the leaves; no Ray, and no network or weight is loaded by a check.
A new key owes one default, in its section, and an error that names key, value and remedy.
"""

from ray_distill.config.load import ConfigError, Loaded, load_config
from ray_distill.config.roles import RoleConfig
from ray_distill.config.schema import RunConfig

__all__ = ["ConfigError", "Loaded", "RoleConfig", "RunConfig", "load_config"]
