#!/usr/bin/env bash
# One GPU, or none.
#
#   training/launch/one_gpu.sh [RECIPE] [key=value ...]
#
# RECIPE is a shipped name or a .yaml file. Run again, it goes on where it stopped; Ctrl-C or
# SIGTERM ends it after the step, with a state to go on from.
set -e
recipe=${1:-userlm-1b}
out=runs/$(basename "$recipe" .yaml)

exec userlm-synth train "$recipe" --out "$out" "${@:2}"
