"""One stage each, from a float model to a report; see `eqnet.chain` for their order."""
