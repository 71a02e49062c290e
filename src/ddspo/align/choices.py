"""What was chosen, as a recipe, and in words why."""

from dataclasses import dataclass
from typing import Any

from ddspo.align.judges import Panel, is_single
from ddspo.align.rungs import SUPERVISION, Evaluation, Placing, Supervision
from ddspo.align.wish import Wish
from ddspo.align.worlds import World, world_of

LEAST_STEPS = 5
"""Of the sampler that makes pairs."""
RANK = 16
LR = 2e-4
BETA_GAP = 5.0
"""Inverse temperature times the gap |g|^2 on the miniature, where it was tuned: u = beta <d, g> then saturates when
the policy has moved by about half of the gap."""
UNKNOWN_GAP = 3e-3
"""Of a model that was not measured yet."""


@dataclass(frozen=True)
class Choices:
    """Everything that a plan decides.

    Attributes:
        wish: What was asked for.
        usual: Sampler steps and guidance scale that the model is usually sampled with.
        guided: Whether guidance doubles the work of a step; in distilled models it is an input.
        dtype: Precision of the frozen weights.
        side: Pixels of the images that the model makes.
        panel: Who judges.
        placing: How it is held.
        device_batch: Pairs at once in training.
        drawn: Pairs or images that are sampled at once.
        supervision: How much is learned from.
        evaluation: How much is looked at.
        gap: |g|^2 = |e(x, c) - e(x, c-)|^2, the mean over times; None: not measured.
    """

    wish: Wish
    usual: tuple[int, float]
    guided: bool
    dtype: str
    side: int
    panel: Panel
    placing: Placing
    device_batch: int
    drawn: int
    supervision: Supervision
    evaluation: Evaluation
    gap: float | None = None

    @property
    def world(self) -> World:
        """What is drawn."""
        return world_of(self.wish, self.supervision, self.evaluation)

    @property
    def beta(self) -> float:
        """Such that beta |g|^2 is that of the miniature, in two digits."""
        return float(f"{BETA_GAP / (UNKNOWN_GAP if self.gap is None else self.gap):.2g}")

    def tree(self) -> dict[str, Any]:
        """The recipe, before overrides."""
        steps, guidance = self.world.usual or self.usual
        how = {"steps": steps, "guidance": guidance}
        return {
            "name": self.wish.name,
            "seed": 1,
            "model": self._model(),
            "prompts": self.world.prompts,
            "degradation": "remove_words",
            "sample": {"pairs": self.supervision.pairs, **self._sampled(steps, guidance)},
            "policy_pair": "training_free",
            "objective": {"logistic": {"beta": self.beta}},
            "draw": {"timesteps": {"logit_normal": {"mean": -0.5}}, "latents": "loser"},
            "adaptation": {"lora": {"rank": RANK, "alpha": RANK}},
            "train": self._train(),
            "validation": self._validation(how),
            "evaluate": self._evaluate(steps, guidance),
        }

    def _sampled(self, steps: int, guidance: float) -> dict[str, Any]:
        fewer = max(LEAST_STEPS, round(steps / 3))
        return {"steps": fewer, "guidance": 1.0 if self.guided else guidance, "batch": max(1, self.drawn // 2)}

    def _model(self) -> dict[str, Any]:
        found: dict[str, Any] = {"path": self.wish.model, "dtype": self.dtype}
        if self.placing.halved:
            found["resolution"] = self.side // 2
        if self.placing.quantize:
            found["quantize"] = self.placing.quantize
        if self.placing.offload:
            found["offload"] = True
        return found

    def _train(self) -> dict[str, Any]:
        given = self.supervision
        found: dict[str, Any] = {"steps": given.updates, "batch": given.batch, "lr": LR}
        found["device_batch"] = self.device_batch
        if self.placing.checkpointing:
            found["gradient_checkpointing"] = True
        if self.placing.quantize == "nf4":
            found |= {"optimizer": "adamw_8bit", "max_grad_norm": 0.01}
        return found | {"checkpoint_every": 5}

    def _validation(self, how: dict[str, Any]) -> dict[str, Any]:
        every = max(1, self.supervision.updates // 4)
        found: dict[str, Any] = {"every": every, "pictures": 6, "final": 0, **how, "batch": self.drawn}
        if self.panel.scorer is not None:
            found |= {"scored": self.evaluation.scored, "metric": self.panel.scorer, "save": "best"}
        return found

    def _evaluate(self, steps: int, guidance: float) -> dict[str, Any]:
        """One scale, the model's usual one: to choose among several costs as much as all else of the evaluation."""
        found = {
            "metrics": self.panel.metrics,
            "prompts": self.world.evaluation,
            "validation": self.world.validation,
            "scales": [guidance],
            "steps": steps,
            "images": self.evaluation.images,
            "batch": self.drawn,
            "judge_batch": 8,
        }
        return found | self.world.evaluate

    def notes(self) -> dict[str, str]:
        """Why, by dotted names of the recipe."""
        placing, given, looked = self.placing, self.supervision, self.evaluation
        rungs, images = ", ".join(str(rung.pairs) for rung in SUPERVISION[::-1]), looked.prompts * looked.images
        gap = f"an assumed gap {UNKNOWN_GAP:g}, not measured yet"
        gap = gap if self.gap is None else f"the measured gap {self.gap:.2g}"
        found = {
            "model.dtype": "what the device computes fast" if self.dtype != "fp32" else "a CPU's own precision",
            "prompts": self.world.why,
            "sample.pairs": f"as many as the budget allows, of {rungs}",
            "sample.steps": "a third of the usual, without guidance: the miniature gained no less (docs/results.md)",
            "objective.logistic.beta": f"{BETA_GAP:g} / {gap}: then it moves by about half of the gap",
            "draw.latents": "losers alone: the same gain for half of the work, in so few updates",
            "draw.timesteps": "middle times more often: what gained most for its distance on the miniature",
            "train.lr": "for LoRA and so few updates, tuned on the miniature",
            "train.device_batch": f"what fits; {given.batch} pairs an update all the same",
            "evaluate.scales": "the model's usual one alone: more of them would cost more than everything else",
            "evaluate.prompts": f"held out; where a score is right or wrong, {images} images tell no gain below "
            f"{half_width(images):.2f} from chance",
        }
        if placing.quantize:
            found["model.quantize"] = f"the weights do not fit otherwise; the LoRA is for the {self.dtype} model too"
        if placing.halved:
            found["model.resolution"] = "half of the side, a quarter of the work; the LoRA is used at any"
        if placing.offload:
            found["model.offload"] = "blocks wait in main memory: slow, and nothing else fits"
        if placing.checkpointing:
            found["train.gradient_checkpointing"] = "a third more time for far less memory"
        if self.panel.scorer is not None:
            found["validation.save"] = "the update that scores best on prompts of no other list"
        elif not any(map(is_single, self.panel.metrics)):
            found["evaluate.metrics"] = "no judge is at hand"
        return found


def half_width(images: int) -> float:
    """Of a 95 % interval of a difference of two shares, at most: 1.96 sqrt(2 * 0.25 / images)."""
    return 1.96 * (0.5 / images) ** 0.5
