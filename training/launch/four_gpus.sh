#!/usr/bin/env bash
# Four GPUs of one machine: weights, gradients and optimizer are divided among them (FSDP2).
#
#   training/launch/four_gpus.sh [RECIPE] [key=value ...]
#
# The same with accelerate, which has to be told of several processes (--cpu starts one alone):
#   accelerate launch --multi_gpu --num_processes 4 -m userlm_synth train RECIPE --out DIR
#
# Run again, also on another number of GPUs, it goes on where it stopped. Ctrl-C or SIGTERM, sent
# to torchrun alone, ends it after the step, with a state to go on from.
set -e
recipe=${1:-userlm-8b}
out=runs/$(basename "$recipe" .yaml)

export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600 # seconds for that state (newer torch; else there are 30)
exec torchrun --standalone --nproc-per-node 4 \
  -m userlm_synth train "$recipe" --out "$out" "${@:2}"
