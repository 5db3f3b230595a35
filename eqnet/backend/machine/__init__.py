"""This machine: its CPU, what it is called in reports, and its clock."""
