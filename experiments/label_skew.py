"""Section 3.2: one and two classes per client. Figures 3, 4, 5, 14, 15, 16; claims C4 to C6.

    python -m experiments.label_skew runs/paper --seeds 3

Three clients, 99.5 % sparse, 10 rounds. On two CPU cores about 44 s (one class) and 70 s (two classes) a round, 19
minutes a seed for both, and a quarter more with the controls.

Expected (seed 0): specialist distinctness of global circuits in the last round 0.19 / 0.23 / 0.33 for one class and
0.35 / 0.36 / 0.43 for two, where random circuits of the same sizes have up to 0.23; two thirds of the one-class run's
local circuits are degenerate; cross-evaluation in the last round 100 % (one class) and 60 % (two), with a balanced
accuracy near 0.5. The authors' files: 0.13 / 0.27 / 0.27 and 0.38 / 0.46 / 0.48, and 100 % in both.
"""

from experiments.paper import section

if __name__ == "__main__":
    section("one-class", "two-class")
