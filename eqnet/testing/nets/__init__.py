"""Networks of the contract suite, and the forms that they are tried in."""
