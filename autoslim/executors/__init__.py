"""Door: places where candidates run."""
