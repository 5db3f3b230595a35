"""Commands that make something, or say how to: supernets, subnets, artifacts."""
