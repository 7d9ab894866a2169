"""One family, one file, read top-down."""
