#!/bin/sh
# Runs the command that was given, else the stage of dvc.yaml that STAGE names.
set -eu
[ "$#" -eq 0 ] || exec "$@"
stages=$(sed -n 's/^ *cmd: python -m components\.stages\.//p' dvc.yaml | xargs)
for stage in $stages; do
    [ "$stage" != "${STAGE:-}" ] || exec python -m "components.stages.$stage"
done
echo "STAGE=${STAGE:-}: allowed are $stages" >&2
exit 2
