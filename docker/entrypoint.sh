#!/bin/sh
# Runs the command that was given, else the stage that STAGE names.
set -eu
[ "$#" -eq 0 ] || exec "$@"
if [ ! -f "components/stages/${STAGE:-}.py" ]; then
    echo "STAGE=${STAGE:-}: allowed are $(cd components/stages && ls | sed -n '/^__/d; s/\.py$//p' | xargs)" >&2
    exit 2
fi
exec python -m "components.stages.$STAGE"
