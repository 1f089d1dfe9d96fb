"""Ground that everything stands on; nothing here knows slides, networks or Dask.

Errors with their exit codes, geometry in its frames, classes and what they mean, the model card, slide
formats by name and first bytes, whole files written under a temporary name, folders and URLs, declaration of
settings, YAML, logs, threads, caches, versions, GPUs that were given, and facts about this machine.
"""

__all__ = [
    "allocator",
    "assessed",
    "card",
    "classes",
    "concepts",
    "errors",
    "files",
    "folders",
    "formats",
    "geometry",
    "gpus",
    "logs",
    "lru",
    "settings",
    "storage",
    "storage_errors",
    "system",
    "threads",
    "versions",
    "yaml_config",
]
