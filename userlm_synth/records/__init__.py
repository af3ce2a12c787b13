"""Records that pass between stages: their shapes, their two layers of checks, and JSONL files.

A record is a plain dict, checked when written and when read by (1) its JSON Schema in `schemas/`
and (2) the rules that a schema cannot say, in `rule_problems`. jsonschema-rs passes the good ones
quickly; jsonschema, the reference implementation, explains the bad ones.
"""

from userlm_synth.records.checks import (
    END_TOKEN,
    INTENT_OPENING,
    Message,
    Record,
    Role,
    bad_values,
    check,
    guess_schema,
    has_form,
    load_schema,
    quickly_passed,
    record_problems,
    schema_names,
    user_turns,
)
from userlm_synth.records.files import (
    file_problems,
    make_folder,
    open_text,
    parse_json,
    read_lines,
    read_records,
    sha256_file,
    stable_hash,
    to_line,
    write_bytes,
    write_json,
    write_records,
)

__all__ = [
    "END_TOKEN",
    "INTENT_OPENING",
    "Message",
    "Record",
    "Role",
    "bad_values",
    "check",
    "file_problems",
    "guess_schema",
    "has_form",
    "load_schema",
    "make_folder",
    "open_text",
    "parse_json",
    "quickly_passed",
    "read_lines",
    "read_records",
    "record_problems",
    "schema_names",
    "sha256_file",
    "stable_hash",
    "to_line",
    "user_turns",
    "write_bytes",
    "write_json",
    "write_records",
]
