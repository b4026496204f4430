"""Which channels or heads of a coupled group matter; one file per ranking."""
