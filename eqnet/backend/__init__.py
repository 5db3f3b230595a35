"""Exporters and runners as eqnet sees them: the protocol, discovery, timing, files, graphs."""
