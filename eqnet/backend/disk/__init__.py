"""What keeps files whole: temporaries that a killed process leaves, renames, power loss."""
