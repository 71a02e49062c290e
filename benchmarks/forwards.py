"""What each objective reads and costs: `python benchmarks/forwards.py` prints the table of docs/objectives.md."""

from ddspo import components
from ddspo.objectives._modifier import Modifier
from ddspo.objectives.base import Needs, Objective
from ddspo.policy_pairs.base import PolicyPair

PAIRS = ["forward_noise", "training_free", "data_driven", "text_preference"]


def table() -> str:
    """Rows of Markdown: forwards of the policy + of frozen ones, of a pair; a dash where it is refused."""
    header = f"| objective | reads | {' | '.join(f'`{pair}`' for pair in PAIRS)} |"
    objectives = {name: components.find(Objective, name)() for name in components.names(Objective)}
    alone = {name: each for name, each in objectives.items() if not isinstance(each, Modifier)}
    rows = [
        f"| `{name}` | {reads(each.needs)} | {' | '.join(cell(each, pair) for pair in PAIRS)} |"
        for name, each in alone.items()
    ]
    return "\n".join([header, "|---|---|" + "---|" * len(PAIRS), *rows])


def reads(needs: Needs) -> str:
    """What it reads beside the winner's error, in words."""
    words = ("reference", "lose", "gap", "mean", "label")
    names = ("reference", "loser", "gap of scores", "a mean over the batch", "labels, if there are no pairs")
    found = [name for word, name in zip(words, names, strict=True) if needs._asdict()[word]]
    return ", ".join(found) or "nothing"


def cell(objective: Objective, pair: str) -> str:
    """Forwards of the policy + of frozen ones, twice where the batch is looked at before."""
    policy_pair: PolicyPair = components.find(PolicyPair, pair)()
    if objective.refuses(policy_pair):
        return "–"
    asked = policy_pair.asks(
        one_latent=pair == "text_preference", reference=objective.needs.reference, lose=objective.needs.lose
    )
    learned, frozen = len(asked.trained), len(asked.frozen)
    return f"{learned} + {frozen}" + (f", after {learned + frozen}" if objective.needs.mean else "")


if __name__ == "__main__":
    print(table())
