"""A result: labelled arrays on disk, read without JAX."""
