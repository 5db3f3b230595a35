"""Export: an extracted subnet becomes a verified-ready artifact folder."""
