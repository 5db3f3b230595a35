"""OpenVINO: running it, and the rewrites that it alone needs."""
