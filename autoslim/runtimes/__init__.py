"""Door: ways to ship a model as one file and run it."""
