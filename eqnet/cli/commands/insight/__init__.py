"""Commands that look into a network: what costs what, and why."""
