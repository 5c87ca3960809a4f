"""Settings: what there is (schema), how it is found and checked (load), and its documentation (document)."""

from resomap.config.load import differences, dump_config, flatten, load_config
from resomap.config.schema import FILES, ResoMapConfig

__all__ = ["FILES", "ResoMapConfig", "differences", "dump_config", "flatten", "load_config"]
