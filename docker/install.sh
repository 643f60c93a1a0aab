#!/bin/sh
# Installs requirements.lock; with ACCELERATOR=cpu, torch and torchvision come from TORCH_INDEX, in the locked versions.
# Arguments are handed to uv (--dry-run, say).
set -eu

fail() { echo "$1" >&2; exit 2; }

locked() { uv pip install --no-deps --require-hashes --requirements requirements.lock "$@"; }

case "${ACCELERATOR:-}" in
cuda)
    locked "$@"
    ;;
cpu)
    [ -n "${TORCH_INDEX:-}" ] \
        || fail "ACCELERATOR=cpu needs the build argument TORCH_INDEX: the address of a package index with CPU-only torch"
    excluded=$(mktemp)
    sed -nE 's/^((torch|torchvision|triton|nvidia-[^=]+|cuda-[^=]+)==).*/\1/; s/==$//p' requirements.lock >"$excluded"
    locked --excludes "$excluded" "$@"
    # shellcheck disable=SC2046  # one word per package is meant
    uv pip install --no-deps --default-index "$TORCH_INDEX" \
        $(sed -nE 's/^((torch|torchvision)==[^ ;]+).*/\1/p' requirements.lock) "$@"
    ;;
*)
    fail "ACCELERATOR=${ACCELERATOR:-}: allowed are cpu and cuda"
    ;;
esac
