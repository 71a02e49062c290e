"""Files of an export -> a model repository on the Hugging Face hub."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from ddspo.errors import InputError, quoted

HEAD = 24


def files(export: Path, card: str, report: Path) -> dict[str, Path | bytes]:
    """What is uploaded, by its path in the repository: one export, the card, and report.json where there is one."""
    if export.is_dir():
        found = {path.relative_to(export).as_posix(): path for path in sorted(export.rglob("*")) if path.is_file()}
    else:
        found = {export.name: export}
    reports = {"report.json": report} if report.exists() else {}
    return found | {"README.md": card.encode()} | reports


def describe(uploads: Mapping[str, Path | bytes], repo_id: str) -> str:
    """What a push would do: the repository, each file with its size, and how the card begins."""
    sizes = {name: _size(content) for name, content in uploads.items()}
    lines = [f"{size:>15,} {name}" for name, size in sorted(sizes.items())]
    card = uploads["README.md"]
    head = card.decode().splitlines()[:HEAD] if isinstance(card, bytes) else []
    return "\n".join([f"would upload {sum(sizes.values()):,} bytes to {repo_id}:", *lines, "", *head])


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def check_name(repo_id: str) -> None:
    """Fail for a name that the hub does not take.

    Raises:
        InputError: It does not.
    """
    try:
        validate_repo_id(repo_id)
        if "/" not in repo_id:
            raise HFValidationError("it has no owner")
    except HFValidationError as error:
        raise InputError(f"{quoted(repo_id)}: no name for a model repository ({error}): give OWNER/NAME") from None


def check_token(api: HfApi) -> None:
    """Ask the hub who we are, before long work.

    Raises:
        InputError: There is no valid token, or no network.
    """
    with _one_line("hub"):
        api.whoami()


def push(uploads: Mapping[str, Path | bytes], repo_id: str, private: bool, api: HfApi) -> str:
    """Make the repository if need be, and commit all files at once; files that only the hub has stay.

    Args:
        uploads: Content by path in the repository.
        repo_id: OWNER/NAME.
        private: Whether a new repository is private.
        api: Client, with endpoint and token.

    Returns:
        Address of the repository.

    Raises:
        InputError: No network, no right to write there, or no such name.
    """
    with _one_line(repo_id):
        url = api.create_repo(repo_id, private=private or None, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in uploads.items()]
        api.create_commit(url.repo_id, operations, commit_message="Upload by ddspo")
    return str(url)


@contextmanager
def _one_line(where: str) -> Iterator[None]:
    try:
        yield
    except LocalTokenNotFoundError:
        raise InputError(f"{where}: no token for the hub: run `hf auth login`, or set HF_TOKEN") from None
    except Exception as error:  # the hub's client raises a dozen types, all of which mean the same to the user
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{where}: the hub did not take it ({lines[0][:160]}): check the token's rights, the name and the network"
        ) from None
