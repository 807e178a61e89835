"""Section 3.2.1: three classes per client. Figures 6, 7, 8, 17; claims C7 to C9.

    python -m experiments.three_class runs/paper --seeds 3

Three clients, 99.5 % sparse, 50 rounds (`--rounds 10` for a look). About 80 s a round on two CPU cores, 70 minutes a
seed.

Expected (seed 0, 10 rounds): specialist distinctness 0.53 / 0.25 / 0.24 of local and 0.45 / 0.42 / 0.65 of global
circuits in the last round; four of nine circuits are under 1 % in some round, never most of them at once;
local-to-global IoU about 0.35 throughout. The paper: 0.6 to 0.9; most circuits at 0 % in many rounds.
"""

from experiments.paper import section

if __name__ == "__main__":
    section("three-class")
