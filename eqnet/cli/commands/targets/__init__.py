"""The commands that are about targets: their profiles, and how fast this machine is."""
