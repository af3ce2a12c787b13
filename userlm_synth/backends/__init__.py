"""Models behind one small interface: `async generate(request) -> result`.

A SPEC names a model: `hf:PATH_OR_ID[@REVISION]` (in process), `openai:MODEL@URL` (any
OpenAI-compatible server), `scripted:FILE` (fixed replies, for tests). A bare path or id is `hf:`.
"""

from userlm_synth.backends.interface import Backend, Request, Result, Spec, open_backend, parse_spec

__all__ = ["Backend", "Request", "Result", "Spec", "open_backend", "parse_spec"]
