"""Door: what is looked at in a compressed file beside its metric, against the untouched file. One file per check."""
