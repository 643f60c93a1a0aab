"""When the pipeline runs: a Prefect flow over dvc.yaml. Starts stages as processes and imports no component."""
