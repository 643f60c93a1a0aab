"""What everything else uses: errors, parameters, files, provenance, processes. Nothing here imports torch."""
