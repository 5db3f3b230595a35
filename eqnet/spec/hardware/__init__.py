"""Hardware profiles: their form, their files, their cost models."""
