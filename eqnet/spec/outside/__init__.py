"""Models that eqnet did not make: what is found in them, and several side by side."""
