"""Pages to read and to file: one HTML file each, which asks for nothing from outside and runs no script.

`slide` and `batch` make them from the templates next to them, and `pdf` prints them.
"""

__all__ = ["batch", "check", "pdf", "slide", "template"]
