"""`python -m userlm_synth` is the same program as `userlm-synth`."""

from userlm_synth.cli import main

main()
