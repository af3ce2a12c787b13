"""Push a release folder to the Hub as one commit: main is the old release or the new one.

Files go up first, where no branch shows them; then one commit adds and deletes with the head it
was compared with as its parent, and a new tag names that commit. Whatever breaks off, running the
same command again compares with what is there and sends what is missing:

1. the folder is what its SHA256SUMS says; the token may write; the card is valid
2. the repository has the visibility that was asked for, and holds nothing but releases of ours
3. the tag is new, or names a commit with this very content (then all is done)
4. LFS and Xet uploads in batches; the folder has not changed meanwhile; commit; tag
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from userlm_synth import __version__
from userlm_synth.errors import UserError
from userlm_synth.hub import remote as hub
from userlm_synth.hub.remote import Entry, Remote
from userlm_synth.hub.sums import (
    CARD,
    SUMS,
    Local,
    changed,
    check_unchanged,
    git_blob,
    read_folder,
    read_sums,
)
from userlm_synth.progress import Progress, say
from userlm_synth.records import Record

Kind = Literal["dataset", "model"]
BATCH = 256  # files of one request: the Hub takes no more
BATCH_BYTES = 1 << 30  # so that progress is seen
IN_MEMORY = 16 << 20  # bytes; smaller files are read once, checked, and sent from memory
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Changes:
    """What separates a commit from the folder."""

    send: list[str]
    delete: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)  # put there by somebody, in no release's list

    def __bool__(self) -> bool:
        return bool(self.send or self.delete)


# The comparison ----------------------------------------------------------------------------


def compare(files: dict[str, Local], there: dict[str, Entry], ours: set[str]) -> Changes:
    """What to send and delete so that `there` becomes the folder; `ours`: the old release."""
    send = [name for name, file in files.items() if not _same(file, there.get(name))]
    gone = sorted(set(there) - set(files))
    return Changes(send, [p for p in gone if p in ours], [p for p in gone if p not in ours])


def _same(file: Local, entry: Entry | None) -> bool:
    """The content is the same; a file that is not in LFS has no SHA-256 there."""
    if entry is None:
        return False
    if entry.sha256 is not None:
        return entry.sha256 == file.sha256
    return entry.size == file.size and entry.blob == git_blob(file.path)


def _compared(remote: Remote, files: dict[str, Local], head: str | None) -> Changes:
    """Compare with a commit, after refusing what is none of our releases."""
    there = remote.tree(head)
    ours = {SUMS, *read_sums(remote.text(SUMS, str(head)))} if SUMS in there else set()
    foreign = sorted(set(there) - ours)
    mixing = [path for path in foreign if path.startswith("data/") and path not in files]
    if (foreign and not ours) or mixing:
        some = ", ".join((mixing or foreign)[:3])
        raise UserError(
            f"{remote.url}: holds files that no release of ours made ({some}); choose another "
            "name, or remove them there"
        )
    return compare(files, there, ours)


# The push ----------------------------------------------------------------------------------


def publish(
    folder: Path, repo_id: str, *, kind: Kind, public: bool, tag: str | None, dry_run: bool = False
) -> Record:
    """Make `repo_id` hold exactly this release, or say what that would take (`dry_run`).

    Returns {repo, kind, url, private, new, tag, commit, files, send, bytes, delete, kept,
    compared, dry_run}; raises `UserError` with main as it was.
    """
    hub.check_name(repo_id)
    if tag is not None and (not TAG.fullmatch(tag) or tag == "main" or ".." in tag):
        raise UserError(f"{tag!r} is no name for a tag; letters, digits and .-_+ make one")
    files = read_folder(folder)
    plan: Record = {"repo": repo_id, "kind": kind, "url": None, "private": not public, "new": None}
    plan |= {"tag": tag, "commit": None, "files": len(files), "dry_run": dry_run}
    if dry_run and not hub.has_token():
        return plan | {"compared": False} | _sizes(files, Changes(list(files)))
    with _quiet():
        remote = Remote.signed_in(repo_id, kind)
        push = _Push(remote, folder, files, tag, public)
        plan |= {"repo": remote.repo_id, "url": remote.url, "compared": True}
        return plan | (push.plan() if dry_run else push.run())


def _sizes(files: dict[str, Local], changes: Changes) -> Record:
    rows = [{"path": name, "bytes": files[name].size} for name in changes.send]
    total = sum(files[name].size for name in changes.send)
    return {"send": rows, "bytes": total, "delete": changes.delete, "kept": changes.kept}


class _Push:
    """One push: its folder, its repository, and how far it is."""

    def __init__(
        self, remote: Remote, folder: Path, files: dict[str, Local], tag: str | None, public: bool
    ) -> None:
        self.remote, self.folder, self.files = remote, folder, files
        self.tag, self.public = tag, public

    def plan(self) -> Record:
        """What would be sent; changes nothing."""
        info = self.remote.info()
        if info is None:
            return {"new": True, **_sizes(self.files, Changes(list(self.files)))}
        self._check_visible(info)
        done = self._tagged()
        changes = Changes([]) if done else _compared(self.remote, self.files, self.remote.head())
        return {"new": False, "commit": done, **_sizes(self.files, changes)}

    def run(self) -> Record:
        """Send, commit, tag."""
        self._check_card()
        info = self.remote.info()
        new = info is None
        if info is None:
            self.remote.create(private=not self.public)
            info = self.remote.info()
        if info is None:
            raise UserError(f"{self.remote.url}: this name is taken; choose another")
        self._check_visible(info)
        if done := self._tagged():
            return {"new": False, "commit": done, **_sizes(self.files, Changes([]))}
        commit, changes = self._land()
        if self.tag is not None:
            self._name(self.tag, commit)
        return {"new": new, "commit": commit, **_sizes(self.files, changes)}

    def _check_card(self) -> None:
        """The Hub's own check of the card, before anything is sent."""
        from huggingface_hub import RepoCard

        text = (self.folder / CARD).read_text("utf-8")
        try:
            card: Any = RepoCard(text, ignore_metadata_errors=True)
            hub.patiently(lambda: card.validate(repo_type=self.remote.kind))
        except Exception as error:
            if hub.status_of(error) == 400 or type(error) is ValueError:
                raise UserError(
                    f"{self.folder / CARD}: the Hub refuses this card: {_said(error)}"
                ) from error
            raise hub.explain(error, self.remote.repo_id, "checking the card") from error

    def _check_visible(self, info: Any) -> None:
        """What is there must be as private or public as was asked: creating changes nothing."""
        if str(info.id).lower() != self.remote.repo_id.lower():
            raise UserError(f"{self.remote.repo_id}: is called {info.id} now; push to that name")
        if bool(info.private) == (not self.public):
            return
        is_now, asked = ("private", "--public") if info.private else ("public", "a private push")
        way = "leave out --public" if info.private else "push with --public"
        raise UserError(
            f"{self.remote.url}: is {is_now}, but {asked} was asked for; {way}, or change it on "
            f"{self.remote.url}/settings"
        )

    def _tagged(self) -> str | None:
        """The commit that the tag names, if it holds this very release; another is refused."""
        commit = self.remote.tags().get(self.tag) if self.tag is not None else None
        if commit is None:
            return None
        there = self.remote.tree(commit)
        listed = read_sums(self.remote.text(SUMS, commit)) if SUMS in there else {}
        if compare(self.files, there, {SUMS, *listed}):
            raise UserError(
                f"{self.remote.url}: tag {self.tag} exists and names another release; choose a "
                "new tag"
            )
        return commit

    def _land(self) -> tuple[str, Changes]:
        """Main holds the release: (its commit, what this push changed).

        After any failure that passes main is read again, so that a commit whose answer was lost
        is found and not made twice, and one that somebody else made is compared with.
        """
        first: Changes | None = None
        for wait in (*hub.WAITS, None):
            try:
                head = self.remote.head()
                changes = _compared(self.remote, self.files, head)
                first = first or changes
                if not changes:
                    return str(head), first
                return self._commit(head, changes), changes
            except Exception as error:
                check_unchanged(self.folder, self.files)  # what a changed folder leads to
                if wait is None or not hub.passes(error):
                    raise hub.explain(error, self.remote.repo_id, "pushing") from error
                if hub.status_of(error) == 412:
                    say(f"{self.remote.repo_id}: main moved during the push; comparing again")
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _commit(self, head: str | None, changes: Changes) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        additions = [self._addition(name, CommitOperationAdd) for name in changes.send]
        self._upload(additions)
        check_unchanged(self.folder, self.files)
        deletions = [CommitOperationDelete(path, is_folder=False) for path in changes.delete]
        made = self.remote.api.create_commit(
            **self.remote.at,
            operations=[*deletions, *additions],
            commit_message=f"Release {self.tag or 'of this folder'} (userlm_synth {__version__})",
            parent_commit=head,
            revision="main",
        )
        return str(made.oid)

    def _addition(self, name: str, kind: Any) -> Any:
        """A file to add, its checksum known; a small one is read here, and checked, once."""
        file = self.files[name]
        if file.size > IN_MEMORY:
            addition = kind(name, str(file.path))
            addition.upload_info.sha256 = bytes.fromhex(file.sha256)  # taken already
            return addition
        data = file.path.read_bytes()
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise changed(self.folder, f"{name} changed during the push")
        return kind(name, data)

    def _upload(self, additions: Sequence[Any]) -> None:
        """LFS and Xet files, in batches; what the Hub has already is not sent again."""
        with Progress("uploading", len(additions), "files", pace=False) as progress:
            for batch in _batches(additions):
                self.remote.api.preupload_lfs_files(
                    self.remote.repo_id, batch, repo_type=self.remote.kind, free_memory=False
                )
                progress.step(len(batch), f"{sum(a.upload_info.size for a in batch) / 1e6:,.0f} MB")

    def _name(self, tag: str, commit: str) -> None:
        """Give the commit its tag; a tag whose answer was lost is found, not refused."""
        asked = {**self.remote.at, "tag": tag, "revision": commit, "exist_ok": False}
        try:
            self.remote.ask("tagging", self.remote.api.create_tag, **asked)
        except UserError as error:
            names = self.remote.tags().get(tag)
            if names is not None and names != commit:
                raise UserError(
                    f"{self.remote.url}: main holds this release now, but meanwhile somebody gave "
                    f"tag {tag} to another; choose a new tag"
                ) from error
            if names is None:
                raise


def _said(error: BaseException) -> str:
    """What the Hub's check of the card says: its messages, out of JSON where it is JSON."""
    try:
        return "; ".join(str(one["message"]) for one in json.loads(str(error))["errors"])
    except (ValueError, KeyError, TypeError):
        return hub.one_line(error)


def _batches(additions: Sequence[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    size = 0
    for addition in additions:
        if batch and (len(batch) == BATCH or size + addition.upload_info.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(addition)
        size += addition.upload_info.size
    if batch:
        yield batch


@contextmanager
def _quiet() -> Iterator[None]:
    """Our progress instead of the client's bars and log lines."""
    import huggingface_hub.utils

    client: Any = huggingface_hub.utils
    were_off, level = client.are_progress_bars_disabled(), client.logging.get_verbosity()
    client.disable_progress_bars()
    client.logging.set_verbosity_error()
    try:
        yield
    finally:
        client.logging.set_verbosity(level)
        if not were_off:
            client.enable_progress_bars()


def plan_text(
    folder: Path, repo_id: str | None, *, kind: Kind, public: bool, tag: str | None
) -> str:
    """`--dry-run`: what a push would send, compared with the Hub where there is a token."""
    if repo_id is not None:
        plan = publish(folder, repo_id, kind=kind, public=public, tag=tag, dry_run=True)
        return outcome_text(plan)
    files = read_folder(folder)
    plan = {"repo": None, "kind": kind, "private": not public, "new": None, "tag": tag}
    plan |= {"files": len(files), "dry_run": True, "compared": False}
    return outcome_text(plan | _sizes(files, Changes(list(files))))


def outcome_text(plan: Record) -> str:
    """What a push would send, or has sent, for people: one fact a line."""
    would = plan["dry_run"]
    private = "private" if plan["private"] else "public"
    lines = [
        f"{plan['kind']} {plan['repo'] or '(no name given)'}, {private}"
        + (", new" if plan["new"] else "")
    ]
    if not plan["compared"]:
        why = "no token" if plan["repo"] else "no repository named"
        lines.append(f"{why}: not compared with what is on the Hub")
    verb = "would send" if would else "sent"
    if plan["send"]:
        count = len(plan["send"])
        lines.append(f"{verb} {count:,} of {plan['files']:,} files, {_size(plan['bytes'])}:")
        lines += [f"  {row['path']}  {_size(row['bytes'])}" for row in plan["send"]]
    else:
        lines.append("nothing to send: the Hub has all of it")
    if plan["delete"]:
        lines.append(f"{'would delete' if would else 'deleted'}: {', '.join(plan['delete'])}")
    if plan["kept"]:
        lines.append(f"of no release, left as it is: {', '.join(plan['kept'])}")
    if plan["tag"]:
        lines.append(f"tag: {plan['tag']}")
    if not would:
        lines.append(f"{plan['url']} at {plan['commit']}")
    return "\n".join(lines)


def _size(count: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count} bytes"
