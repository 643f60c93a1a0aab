"""What everything stands on: errors, parameters, files, provenance, processes. Nothing here imports torch."""
