"""One step of training: its losses, and its recorded form on a GPU."""
