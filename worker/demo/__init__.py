"""The main job, shown on a sample catalogue: one run, one table, one gallery."""
