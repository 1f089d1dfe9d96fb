"""Pages to read and to file: one HTML file each, which asks for nothing from outside and runs no script."""
