"""Results: one object, its tables and files, the timeline."""
