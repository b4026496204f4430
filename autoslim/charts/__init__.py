"""Door: figures of a report, numbers first, then ink."""
