"""What the commands that look into files print."""
