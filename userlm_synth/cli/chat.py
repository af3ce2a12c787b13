"""`chat`: the terminal in which a person plays the assistant."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from userlm_synth.cli.program import FILE, as_overrides
from userlm_synth.errors import UserError
from userlm_synth.records import INTENT_OPENING

if TYPE_CHECKING:
    from userlm_synth.backends import Result
    from userlm_synth.simulate.chat import Chat

HELP = r"""Enter sends a reply; a line that ends in \ goes on in the next one.
  /again        another sample of the user's last turn
  /undo         take your last reply back
  /save [FILE]  keep this chat in a JSONL file, up to date from then on
  /quit         leave (so does Ctrl-D)
A reply that begins with a slash: type two."""


@click.command()
@click.argument("model")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--intent", required=True, help="What the user wants: the user LM's instruction.")
@click.option("--persona", help="Who the user is.")
@click.option("--save", "file", type=FILE, help="Keep the chat in this JSONL file of dialogues.")
@click.option("--seed", type=int, help="Of the user's samples (default: another each time).")
def chat(
    model: str,
    overrides: tuple[str, ...],
    intent: str,
    persona: str | None,
    file: Path | None,
    seed: int | None,
) -> None:
    """Talk with a user LM: it opens, you play its assistant, until it leaves.

    \b
    userlm-synth chat runs/quickstart/user_lm --save chats.jsonl \\
      --intent "You are a user chatting with an assistant language model to order a small latte."

    MODEL is any SPEC of a user LM: a run's folder, a Hub id, openai:MODEL@URL. Beside each turn
    stands the model's probability of leaving at that point. Settings are those of generate:
    generate.temperature=0.7, generate.max_tokens=40, generate.server.tokenizer=PATH
    """
    from userlm_synth.backends import open_backend
    from userlm_synth.recipe import Generate, build_recipe
    from userlm_synth.simulate.chat import Chat, refuse_other_files

    items = [*overrides, *as_overrides({"generate.user": model, "seed": seed})]
    recipe = build_recipe({"name": "chat"}, items)
    settings = recipe.generate or Generate()
    if not intent.strip():
        raise UserError("--intent: is empty; say what the user wants")
    if file:
        refuse_other_files(file)
    user = open_backend(model, speaker="user", key_env=settings.api_key_env, server=settings.server)
    seed = random.randrange(2**31) if seed is None else seed
    Terminal(Chat(user, settings, intent, persona, seed, recipe.hash), file).hold()


class Terminal:
    """Lines in, turns out. On a pipe there are no prompts, and the replies are shown too."""

    def __init__(self, chat: Chat, file: Path | None) -> None:
        self.chat, self.file = chat, file
        self.interactive = sys.stdin.isatty()
        # not asyncio.run: it would keep Ctrl-C from a person who is being waited for
        self.loop = asyncio.new_event_loop()
        if self.interactive:
            import readline  # noqa: F401 (the arrow keys, for `input`)
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")

    def hold(self) -> None:
        """The whole conversation; exits with 130 after Ctrl-C, with 0 otherwise."""
        status = 0
        try:
            self.loop.run_until_complete(self.chat.user.start())
            click.echo(f"{self.chat.user.name}, seed {self.chat.seed}")
            if not self.chat.intent.startswith(INTENT_OPENING):
                click.echo(f"Intents that user LMs know begin:\n  {INTENT_OPENING} ...")
            click.echo("You play the assistant; /help lists what else you can type.\n")
            self.user_turn()
            while self.chat.stop is None and self.step(self.read()):
                pass
        except EOFError:
            click.echo()
        except KeyboardInterrupt:
            click.echo()
            status = 130
        finally:
            self.leave()
        sys.exit(status)

    def leave(self) -> None:
        """Say what became of the chat, and release the model."""
        if self.chat.messages and self.file is None:
            click.echo("not kept; --save FILE, or /save FILE, keeps a chat")
        elif self.chat.messages and self.file:
            self.save()
            click.echo(f"saved to {self.file}")
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(self.chat.user.close())
        self.loop.close()

    def step(self, line: str) -> bool:
        """What one input does; False: leave."""
        commands: dict[str, Callable[[str], Any]] = {
            "/again": self.again, "/undo": self.undo, "/save": self.keep,
            "/help": lambda _: click.echo(HELP),
        }  # fmt: skip
        name, _, rest = line.strip().partition(" ")
        if name == "/quit":
            return False
        if name in commands:
            commands[name](rest.strip())
        elif name.startswith("/") and not name.startswith("//"):
            click.echo(f"{name}: no such command; /help lists them")
        elif not self.chat.answerable:
            click.echo("the user has said nothing to reply to; /again asks once more")
        elif self.chat.answer(line.strip().removeprefix("/") if name.startswith("//") else line):
            self.user_turn()
        else:
            click.echo("an empty reply is not sent; /help lists what you can type")
        return True

    def read(self) -> str:
        """One input, its continued lines joined; EOFError at its end."""
        text, prompt = "", "you > "
        while True:
            line = input(prompt if self.interactive else "")
            if not self.interactive:
                click.echo(prompt + line)
            if not line.endswith("\\"):
                return text + line
            text, prompt = f"{text}{line[:-1]}\n", "    > "

    def user_turn(self) -> None:
        """Sample the user's next turn and show it."""
        result = self.loop.run_until_complete(self.chat.ask())
        click.echo(shown(result, self.chat.settings.max_tokens))
        if self.file:
            self.save()

    def again(self, _: str) -> None:
        """Another sample."""
        self.chat.forget()
        self.user_turn()

    def undo(self, _: str) -> None:
        """Back to the turn before."""
        if not self.chat.undo():
            click.echo("there is no reply to take back")
        elif self.chat.answerable:
            click.echo(turn(self.chat.messages[-1]["content"]))

    def keep(self, name: str) -> None:
        """Keep the chat in a file from here on."""
        if not name and self.file is None:
            click.echo("name a file: /save chats.jsonl")
            return
        former, self.file = self.file, Path(name).expanduser() if name else self.file
        try:
            self.save()
            click.echo(f"saved to {self.file}")
        except (UserError, OSError) as error:  # no reason to end the chat
            click.echo(f"not saved: {error}")
            self.file = former

    def save(self) -> None:
        """Bring the file up to date."""
        from userlm_synth.simulate.chat import save

        if self.file and self.chat.messages:
            save(self.chat.record(), self.file)


def turn(text: str) -> str:
    """A user turn, its further lines indented: no text can pass for a line of this program."""
    from userlm_synth.simulate.chat import harmless

    return "user> " + harmless(text).replace("\n", "\n      ")


def shown(result: Result, limit: int) -> str:
    """A result for people: what was said, and how likely the user was to leave here."""
    chance = ""
    if result.end_probability is not None:
        percent = 100 * result.end_probability
        chance = f"would leave: {f'{percent:.0f}' if percent >= 1 else '< 1'} %"
    if result.finish == "end":
        return f"the user leaves ({chance})" if chance else "the user leaves"
    if result.finish == "context_full":
        return "the conversation has filled the model's context; it ends here"
    if result.finish == "error":
        return f"no turn: {result.text}\n/again asks once more"
    if not result.text:
        return "the user says nothing; /again asks once more"
    notes = [chance] if chance else []
    if result.finish == "length":
        notes.append(f"cut at {limit} tokens: generate.max_tokens")
    return turn(result.text) + (f"   ({'; '.join(notes)})" if notes else "")
