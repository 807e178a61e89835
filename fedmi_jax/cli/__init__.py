"""The `fedmi` command."""
