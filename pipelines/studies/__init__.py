"""Studies: arms, seeds, jobs."""
