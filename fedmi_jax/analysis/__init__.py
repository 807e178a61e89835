"""What a result says: statistics over seeds, null models, verdicts. Pure functions of `xarray.Dataset`s, none of
which trains anything."""
