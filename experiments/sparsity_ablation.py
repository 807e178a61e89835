"""Section 3.3: two classes per client at 95, 97, 99 and 99.5 % sparsity. Figure 19; claim C12.

    python -m experiments.sparsity_ablation runs/paper --seeds 3

Three clients, 10 rounds. On two CPU cores about 55 s a round, 40 minutes a seed for all four.

Expected (seed 0): circuits under 1 % in the last round 1, 1, 2 and 3 of 6; share of circuits and rounds under 1 % 28,
18, 10 and 22 %. The paper: 3 of 6 at 95 %, 1 of 6 at 99.5 %, falling in between. One seed cannot tell (Page's test
needs two).
"""

from experiments.paper import section

if __name__ == "__main__":
    section("sparsity-ablation")
