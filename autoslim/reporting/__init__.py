"""From the record to what people read: one room per idea. Nothing here loads torch or a model; report.py joins the rooms."""
