"""How the values of one tensor are stored in a packed file; one file per way."""
