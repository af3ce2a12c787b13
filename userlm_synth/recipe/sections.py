"""The sections of a recipe, as frozen dataclasses: names, defaults and limits of every setting.

A recipe names models, files and numbers, never a Python import path. A stage runs where its
section is there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from userlm_synth.records import Record, stable_hash

#: Sources by name: generated ones, and datasets on the Hub. Others are files, folders, hf://...
SOURCES = ("quickstart", "wildchat", "lmsys", "prism", "oasst", "sharegpt", "hh-rlhf")
FORMATS = (
    "auto", "messages", "wildchat", "lmsys", "prism", "oasst", "sharegpt", "hh-rlhf", "chatgpt",
    "columns",
)  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Where the parts of a conversation are in a table of one's own; a.b reaches inside a value."""

    messages: str | None = None  # a list of turns, or such a list as JSON text
    role: str = "role"  # in a turn: who speaks
    content: str = "content"  # in a turn: the text
    user: tuple[str, ...] = ("user", "human", "prompter")  # what the user's role is called
    assistant: tuple[str, ...] = ("assistant", "gpt", "bot", "model")
    prompt: str | None = None  # instead of messages: one exchange a row, in two columns
    response: str | None = None
    id: str | None = None
    user_id: str | None = None
    language: str | None = None
    country: str | None = None
    intent: str | None = None
    persona: str | None = None


@dataclass(frozen=True)
class Clean:
    """What is dropped or mended before anything else; each reason is counted."""

    languages: tuple[str, ...] = ()  # BCP 47 codes to keep (en, pt); empty: all, none detected
    drop_toxic: bool = True  # where the source says so
    drop_redacted: bool = True
    min_user_turns: int = field(default=1, metadata={"min": 1})
    max_turns: int = field(default=200, metadata={"min": 2})  # of both sides
    min_characters: int = field(default=1, metadata={"min": 1})  # of the first user turn
    max_characters: int = field(default=100_000, metadata={"min": 1})  # of any one turn
    exclude_ids: str | None = field(default=None, metadata={"path": True})  # ids, one a line


@dataclass(frozen=True)
class Dedup:
    """Copies: exact ones, prompt templates (n-grams that recur in first turns), near ones."""

    exact: bool = True
    ngram: int = field(default=7, metadata={"min": 2})  # words; the paper counts 7-grams
    min_copies: int = field(default=20, metadata={"min": 2})  # of an n-gram, to be a template's
    cap: int = field(default=1, metadata={"min": 0})  # conversations that a template may keep
    near: float = field(default=0.8, metadata={"min": 0.7, "max": 1.0})  # Jaccard; 1: none


@dataclass(frozen=True)
class Conversations:
    """Where the real conversations come from, how they are cleaned, and how they are split."""

    source: str = field(metadata={"source": True})  # a name, a file, a folder, hf://datasets/...
    format: str = field(default="auto", metadata={"one_of": FORMATS})  # of a file's rows
    columns: Columns | None = None  # of rows in a form of one's own
    hub_config: str | None = None  # of a dataset on the Hub
    hub_split: str = "train"
    paths: str = field(default="all", metadata={"one_of": ("all", "best")})  # of message trees
    license: str | None = None  # of the source, for the data card (default: the known one's)
    limit: int | None = field(default=None, metadata={"min": 1})  # rows to read
    count: int = field(default=3000, metadata={"min": 10})  # of the generated quickstart source
    on_error: str = field(default="stop", metadata={"one_of": ("stop", "reject")})
    clean: Clean | None = Clean()
    redact: bool = False  # e-mail addresses, phone numbers, keys, ... become placeholders
    dedup: Dedup | None = Dedup()
    persona: str | None = None  # for those without one: "Writes in a {metadata.style} way."
    keep_dropped: bool = False  # what is dropped goes to dropped.jsonl, with its reason
    split_by: str = "user"  # user, conversation, or metadata.KEY (whole groups held out)
    train: float = field(default=0.9, metadata={"min": 0.0, "max": 1.0})
    validation: float = field(default=0.05, metadata={"min": 0.0, "max": 1.0})
    test: float = field(default=0.05, metadata={"min": 0.0, "max": 1.0})
    workers: int | None = field(default=None, metadata={"min": 1})  # default: one a core


@dataclass(frozen=True)
class Intents:
    """Intents for conversations that have none; given ones are kept."""

    model: str = field(metadata={"spec": True})
    mode: str = field(default="whole", metadata={"one_of": ("whole", "opening")})  # what it sees
    on_error: str = field(default="stop", metadata={"one_of": ("stop", "reject")})
    budget: float | None = field(default=None, metadata={"above": 0.0})  # USD in all
    price_in: float | None = field(default=None, metadata={"min": 0.0})  # USD a million tokens
    price_out: float | None = field(default=None, metadata={"min": 0.0})
    concurrency: int = field(default=8, metadata={"min": 1})
    api_key_env: str = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Scratch:
    """A tiny base model, trained here on the conversations as plain text: lines without roles."""

    vocabulary: int = field(default=4000, metadata={"min": 300})
    hidden: int = field(default=192, metadata={"min": 8})
    layers: int = field(default=4, metadata={"min": 1})
    heads: int = field(default=3, metadata={"min": 1})


END_WEIGHTS = ("token", "sample")
TRACKERS = ("tensorboard", "wandb", "trackio")


@dataclass(frozen=True)
class Training:
    """One run of the optimizer. Sizes are tokens; a row holds several packed conversations."""

    epochs: float = field(default=1.0, metadata={"above": 0.0})
    max_steps: int | None = field(default=None, metadata={"min": 1})  # stop earlier
    learning_rate: float = field(default=2e-5, metadata={"above": 0.0})
    max_length: int = field(default=2048, metadata={"min": 32})
    batch_tokens: int = field(default=16384, metadata={"min": 32})  # of a step, on all processes
    micro_batch_tokens: int = field(default=2048, metadata={"min": 32})  # at once, on one process
    warmup: float = field(default=0.05, metadata={"min": 0.0, "max": 1.0})
    final_learning_rate: float = field(default=0.1, metadata={"min": 0.0, "max": 1.0})
    weight_decay: float = field(default=0.0, metadata={"min": 0.0})
    clip: float = field(default=1.0, metadata={"above": 0.0})
    # token: every target counts the same; sample: every turn does, and leaving (the mean over K+1
    # samples); a number: as token, with this weight at the end token
    end_weight: float | str = field(default="token", metadata={"min": 0.0, "words": END_WEIGHTS})
    intent_dropout: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    precision: str = field(default="auto", metadata={"one_of": ("auto", "fp32", "bf16")})
    optimizer: str = field(default="adamw", metadata={"one_of": ("adamw", "adamw_8bit")})
    gradient_checkpointing: bool = False  # less memory, a third more time
    compile: bool = False  # torch.compile each layer
    checkpoint_minutes: float = field(default=2.0, metadata={"above": 0.0})
    validations: int = field(default=2, metadata={"min": 0})  # evenly spread, the last at the end
    validation_conversations: int = field(default=50, metadata={"min": 1})
    log_to: tuple[str, ...] = field(default=(), metadata={"each_of": TRACKERS})


@dataclass(frozen=True)
class Base:
    """The checkpoint to start from: a Hub id or folder, or one made from scratch."""

    model: str | None = field(default=None, metadata={"spec": True})
    scratch: Scratch | None = None
    train: Training | None = None


@dataclass(frozen=True)
class Server:
    """How the server of an openai: model is spoken to."""

    # How a user LM is asked: by the messages, with the server's template (chat), or by token ids
    # rendered here (completions); auto: completions where the tokenizer is known. Assistants: chat
    api: str = field(default="auto", metadata={"one_of": ("auto", "chat", "completions")})
    tokenizer: str | None = None  # of a user LM: folder or Hub id; default: the server's own folder
    context: int | None = field(default=None, metadata={"min": 1})  # tokens; default: it says so
    timeout: float = field(default=600.0, metadata={"above": 0.0})  # seconds, for one try
    retries: int = field(default=20, metadata={"min": 0})  # of one request, ever slower


@dataclass(frozen=True)
class Assistant:
    """The other side: any model SPEC, or (with `train`) an assistant LM from the same base."""

    model: str | None = field(default=None, metadata={"spec": True})
    train: Training | None = None
    temperature: float = field(default=1.0, metadata={"min": 0.0})
    top_p: float = field(default=1.0, metadata={"above": 0.0, "max": 1.0})
    max_tokens: int = field(default=512, metadata={"min": 1})
    system: str | None = None  # a system prompt for the assistant
    budget: float | None = field(default=None, metadata={"above": 0.0})  # USD for this side
    api_key_env: str = "OPENAI_API_KEY"
    server: Server = Server()


@dataclass(frozen=True)
class Personas:
    """LoRA adapters on top of the user LM: one for each group of people, or for each person."""

    by: str | None = None  # user_id or metadata.KEY: an adapter for each of its values
    groups: dict[str, dict[str, tuple[str, ...]]] | None = None  # NAME: {metadata.KEY: [values]}
    min_conversations: int = field(default=20, metadata={"min": 1})  # to train on; fewer: none
    rank: int = field(default=16, metadata={"min": 1})
    alpha: int = field(default=32, metadata={"min": 1})
    dropout: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0})
    train: Training = Training(learning_rate=2e-4, validations=0)


@dataclass(frozen=True)
class Simulator:
    """A user simulator in the tables of `evaluate`."""

    model: str = field(metadata={"spec": True})
    # what its system message says, with {intent} in it, for models that were trained on other words
    system: str | None = None
    temperature: float | None = field(default=None, metadata={"min": 0.0})  # default: evaluate's
    top_p: float | None = field(default=None, metadata={"above": 0.0, "max": 1.0})


@dataclass(frozen=True)
class Judge:
    """A model that reads and judges; its answers are kept, so that none is paid for twice."""

    model: str | None = field(default=None, metadata={"spec": True})
    concurrency: int = field(default=8, metadata={"min": 1})
    budget: float | None = field(default=None, metadata={"above": 0.0})  # USD in all
    price_in: float | None = field(default=None, metadata={"min": 0.0})  # USD a million tokens
    price_out: float | None = field(default=None, metadata={"min": 0.0})
    api_key_env: str = "OPENAI_API_KEY"


TEXTS = ("auto", "long", "short")


@dataclass(frozen=True)
class Naturalness:
    """How human the first turns look: a classifier trained on the spot, or a detector."""

    # classifier; pangram or pangram:MODEL (key: PANGRAM_API_KEY); or a detector: Hub id or folder
    by: str = "classifier"
    human_label: str | None = None  # of a detector whose labels do not say which one is human
    # what the classifier learns to tell people from: texts, conversations or dialogues (JSONL);
    # default: the turns of the prompted models in the same table
    contrast: str | None = field(default=None, metadata={"path": True})
    # long: 50 to 200 tokens, as in the paper; short: any length; auto: long where there are enough
    texts: str = field(default="auto", metadata={"one_of": TEXTS})
    folds: int = field(default=5, metadata={"min": 2})


@dataclass(frozen=True)
class Evaluate:
    """Tables 1, 2 and 4 of the paper on held-out conversations."""

    models: dict[str, Simulator] | None = None  # NAME: what is compared (default: the run's)
    max_conversations: int | None = field(default=None, metadata={"min": 2})
    first_turns: int = field(default=2000, metadata={"min": 0})  # sampled; as many as there are
    decomposition: int = field(default=200, metadata={"min": 0})  # conversations with sampled turns
    termination: int = field(default=1000, metadata={"min": 0})  # conversations that may be left
    multiple_choice: str | None = field(default=None, metadata={"path": True})  # role adherence
    questions: str | None = field(default=None, metadata={"path": True})  # intent adherence
    probes: int = field(default=2000, metadata={"min": 1})  # of each of the two, at most
    # who tells the user that it does not know: a SPEC, or (default) fixed replies
    unsure: str | None = field(default=None, metadata={"spec": True})
    judge: Judge = Judge()  # of intent adherence
    naturalness: Naturalness | None = Naturalness()
    temperature: float = field(default=1.0, metadata={"min": 0.0})
    top_p: float = field(default=0.8, metadata={"above": 0.0, "max": 1.0})
    max_tokens: int = field(default=256, metadata={"min": 1})  # in one sampled turn
    batch_tokens: int = field(default=8192, metadata={"min": 32})
    bootstrap: int = field(default=1000, metadata={"min": 100})
    concurrency: int = field(default=64, metadata={"min": 1})
    budget: float | None = field(default=None, metadata={"above": 0.0})  # USD for sampled turns
    prices: str | None = field(default=None, metadata={"path": True})  # YAML; over the shipped ones
    api_key_env: str = "OPENAI_API_KEY"  # of simulators on servers
    server: Server = Server()


SANDBOXES = ("bubblewrap", "none")
DOMAINS = ("math", "code")


@dataclass(frozen=True)
class Benchmark:
    """Table 3 of the paper: tasks that a user reveals to an assistant whose answers are checked."""

    tasks: str | None = field(default=None, metadata={"path": True, "or": "own"})  # own: shipped
    runs: int = field(default=10, metadata={"min": 1})  # of each task
    domain: str | None = field(default=None, metadata={"one_of": DOMAINS})  # default: both
    limit: int | None = field(default=None, metadata={"min": 1})  # tasks of the file
    judge: Judge = Judge()  # maps the user's turns to shards
    # none: model-written programs run without protection
    sandbox: str = field(default="bubblewrap", metadata={"one_of": SANDBOXES})
    check_seconds: float = field(default=10.0, metadata={"above": 0.0})  # for one program


@dataclass(frozen=True)
class Guardrails:
    """The paper's guardrails (App. D.1) and more, each on or off; each regeneration is counted."""

    first_token_filter: tuple[str, ...] = ()  # words that may not open a user turn
    forbid_end: bool = False  # the user never leaves
    forbid_end_before: int = field(default=2, metadata={"min": 1})  # first turn that may be the end
    min_words: int = field(default=1, metadata={"min": 1})
    max_words: int | None = field(default=None, metadata={"min": 1})
    no_repeats: bool = True  # a turn equal to an earlier one or to the intent
    role_break: bool = True  # the user answers as an assistant would
    run_on: bool = True  # the user's turn goes on into the assistant's
    control_tokens: bool = True  # a special token's name is left in the text
    language: str | None = None  # code of the language (en) that users write; auto: the intent's
    attempts: int = field(default=5, metadata={"min": 1})  # then the dialogue is rejected


@dataclass(frozen=True)
class Slice:
    """A share of the dialogues with a user of its own; what is not said here is as in generate."""

    weight: float = field(default=1.0, metadata={"above": 0.0})
    user: str | None = field(default=None, metadata={"spec": True})
    temperature: float | None = field(default=None, metadata={"min": 0.0})
    top_p: float | None = field(default=None, metadata={"above": 0.0, "max": 1.0})
    personas: str | None = field(default=None, metadata={"path": True})


COMBINE = ("draw", "cross")


@dataclass(frozen=True)
class Ray:
    """Many machines (`--engine ray`): shards of the dialogues, spread over a Ray cluster."""

    shards: int = field(default=64, metadata={"min": 1})
    address: str | None = None  # of the cluster; default: RAY_ADDRESS, or one on this machine
    cpus: float = field(default=1.0, metadata={"min": 0.0})  # of a worker
    gpus: float = field(default=0.0, metadata={"min": 0.0})  # of a worker: its own vLLM replica


@dataclass(frozen=True)
class Generate:
    """Dialogues between the user LM and the assistant."""

    user: str | None = field(default=None, metadata={"spec": True})  # default: the run's user LM
    num: int | None = field(default=None, metadata={"min": 1})  # in all; default: one an intent
    intents: str | None = field(default=None, metadata={"path": True})  # default: the test split
    max_turns: int = field(default=10, metadata={"min": 1})
    temperature: float = field(default=1.0, metadata={"min": 0.0})
    top_p: float = field(default=0.8, metadata={"above": 0.0, "max": 1.0})
    max_tokens: int = field(default=256, metadata={"min": 1})  # in one user turn
    max_dialogue_tokens: int | None = field(default=None, metadata={"min": 1})  # of both sides
    guardrails: Guardrails = Guardrails()
    slices: dict[str, Slice] | None = None  # NAME: a share of the dialogues with its own user
    personas: str | None = field(default=None, metadata={"path": True})  # JSONL {id, persona}
    # draw: each dialogue draws its slice and persona; cross: every intent meets every one of them
    combine: str = field(default="draw", metadata={"one_of": COMBINE})
    turns: dict[str, float] | None = None  # user turns of a dialogue: share (2: 0.3); default: free
    turns_like: str | None = field(default=None, metadata={"path": True})  # or as in these chats
    reference: str | None = field(default=None, metadata={"path": True})  # chats to compare with
    concurrency: int = field(default=64, metadata={"min": 1})  # most dialogues at once
    adapt: bool = True  # fewer at once where the servers queue or refuse
    budget: float | None = field(default=None, metadata={"above": 0.0})  # USD in all
    budget_user: float | None = field(default=None, metadata={"above": 0.0})  # USD for the user LM
    prices: str | None = field(default=None, metadata={"path": True})  # YAML; over the shipped ones
    api_key_env: str = "OPENAI_API_KEY"  # of the user LM's server
    server: Server = Server()
    ray: Ray = Ray()


@dataclass(frozen=True)
class Report:
    """The diversity and naturalness report beside the held-out human conversations."""

    title: str | None = None
    sample: int = field(default=2000, metadata={"min": 2})  # dialogues a side, at most
    # a sentence-embedding model: folder or Hub id (sentence-transformers); default: TF-IDF and SVD
    embedding: str | None = None
    # who says how human a dialogue is: Hub id or folder of a detector, or pangram
    detector: str | None = None
    human_label: str | None = None  # of a detector whose labels do not say which one is human
    toxicity: str | None = None  # a classifier: Hub id or folder; default: a word list alone


@dataclass(frozen=True)
class Push:
    """The release: a dataset folder, and what its card says of rights."""

    pretty_name: str | None = None
    description: str | None = None  # what the dialogues are of, in a sentence or two
    license: str | None = None  # of the dialogues, in the Hub's words: cc-by-4.0, other, ...
    license_name: str | None = None  # where license is other
    license_link: str | None = None
    language: tuple[str, ...] = ()  # codes; default: those of the dialogues
    sources: dict[str, str] | None = None  # NAME: licence, where the run's files do not say it
    models: dict[str, str] | None = None  # MODEL: licence or terms, where its own card does not
    validation: float = field(default=0.1, metadata={"min": 0.0, "max": 0.9})
    redact: bool = False  # e-mail addresses, keys, ... become placeholders, else nothing is made


#: Settings that change nothing in the result, wherever they stand.
PASSING = (
    "adapt", "api_key_env", "budget", "budget_user", "checkpoint_minutes", "concurrency", "log_to",
    "price_in", "price_out", "prices", "ray", "reference", "retries", "timeout",
    "validation_conversations", "validations", "workers",
)  # fmt: skip


def lasting(settings: Record) -> Record:
    """Settings (plain data, nested) without those that change nothing in the result."""
    return {
        key: lasting(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in PASSING
    }


@dataclass(frozen=True)
class Recipe:
    """Everything that one run does."""

    name: str
    seed: int = field(default=0, metadata={"min": 0})
    conversations: Conversations | None = None
    intents: Intents | None = None
    base: Base | None = None
    train: Training | None = None
    personas: Personas | None = None
    assistant: Assistant | None = None
    evaluate: Evaluate | None = None
    generate: Generate | None = None
    benchmark: Benchmark | None = None
    report: Report | None = None
    push: Push | None = None

    def as_dict(self) -> Record:
        """Plain data, defaults filled in: what `recipe.yaml` in a run folder holds."""
        return _plain(self)  # type: ignore[no-any-return]

    @property
    def hash(self) -> str:
        """Hex hash of the resolved recipe; every generated row carries it."""
        return stable_hash(self.as_dict())[:16]


def _plain(value: Any) -> Any:
    """Dataclasses as mappings; what is None is left out, where None is the default."""
    if dataclasses.is_dataclass(value):
        items = {f: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {
            f.name: item
            for f, item in items.items()
            if item is not None or f.default not in (None, dataclasses.MISSING)
        }
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
