"""The compiled calls of a round, each over all its models or circuits at once.

`training`: clients and server; `stacks`: the models of a round; `rows`: how work is dealt out case by case;
`searching`: the circuits; `judging`: the measures.
"""

from fedmi_jax.federation.programs.judging import (
    empty_masks,
    judge,
    judge_both,
    judge_decisions,
    judge_models,
    readouts,
    sameness,
    whole_logits,
)
from fedmi_jax.federation.programs.rows import Masked, over_rows, stacked, whole_models
from fedmi_jax.federation.programs.searching import (
    attribute,
    decide_circuits,
    discover_circuits,
    mean_outputs,
    survey_models,
    to_explain,
)
from fedmi_jax.federation.programs.stacks import finite, repeated, seen_images, sparse, whole, wiring
from fedmi_jax.federation.programs.training import aggregate, initial_state, serve_models, train_models

__all__ = [
    "Masked", "aggregate", "attribute", "decide_circuits", "discover_circuits", "empty_masks",
    "finite", "initial_state", "judge", "judge_both", "judge_decisions", "judge_models", "mean_outputs", "over_rows",
    "readouts", "repeated", "sameness", "seen_images", "serve_models", "sparse", "stacked", "survey_models",
    "to_explain", "train_models", "whole", "whole_logits", "whole_models", "wiring",
]  # fmt: skip
