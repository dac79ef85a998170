"""Where engines run: one file per kind of place, all of the shape in `base`."""
