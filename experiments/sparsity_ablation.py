"""Section 3.3: two classes per client at 95, 97, 99 and 99.5 % sparsity. Figure 19; claim C12.

    python -m experiments.sparsity_ablation runs/paper --seeds 3

Three clients, 10 rounds. On two CPU cores about 55 s a round, 40 minutes a seed for all four.

Expected (two seeds): share of circuits and rounds under 1 % 32, 26, 17 and 16 %, most of it at 95 and 97 % circuits
with an empty layer: without them 6, 1, 16 and 14 %, of those that work on their own model 10, 9, 11 and 14 %; out in
the last round 25, 25, 33 and 33 %. The paper: 3 of 6 at 95 %, 1 of 6 at 99.5 %, falling in between.
"""

from experiments.paper import section

if __name__ == "__main__":
    section("sparsity-ablation")
