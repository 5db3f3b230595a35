"""`python -m eqnet`: the command line, as launchers of several processes start it."""

from eqnet.cli.main import run

if __name__ == "__main__":
    run()
