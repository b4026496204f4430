"""Which weights of a layer become zero; one file per criterion."""
