"""Door: ways to make a model smaller or faster. One file, one technique."""
