"""The genetic search: where it begins, how it breeds, and what is kept of each generation."""
