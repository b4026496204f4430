"""Door: ways to choose the next point."""
