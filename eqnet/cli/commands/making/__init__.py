"""Commands that make something: supernets, subnets, artifacts."""
