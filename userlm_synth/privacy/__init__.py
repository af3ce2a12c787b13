"""Personal data and secrets in text: found by form and checksum, replaced by typed placeholders.

`find` says where, `redact` replaces ("[EMAIL]", "[OPENAI_KEY]"), `redact_record` does so to a whole
conversation. Names and postal addresses are not looked for: they have no form to go by.
"""

from userlm_synth.privacy.finding import Finding
from userlm_synth.privacy.scan import KINDS, find, find_in_record, redact, redact_record

__all__ = ["KINDS", "Finding", "find", "find_in_record", "redact", "redact_record"]
