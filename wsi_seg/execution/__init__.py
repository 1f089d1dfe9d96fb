"""Execution: tasks, and where they run; the only home of Dask.

Threads and processes of this machine, GPUs, SLURM, or a Dask scheduler at an address. Tasks are recipes and
return small records; where they run changes no byte of the results. A new scheduler is opened in `workers`.
"""

__all__ = ["arrays", "graph", "settings", "tasks", "workers"]
