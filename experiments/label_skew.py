"""Section 3.2: one and two classes per client. Figures 3, 4, 5, 14, 15, 16; claims C4 to C6.

    python -m experiments.label_skew runs/paper --seeds 3

Three clients, 99.5 % sparse, 10 rounds. On two quiet CPU cores about 26 s (one class) and 53 s (two classes) a round,
13 minutes a seed for both.

Expected (three seeds): specialist distinctness of global circuits in the last round 0.14 / 0.24 / 0.33 for one class,
0.36 / 0.38 / 0.44 for two, where random circuits of the same sizes have up to 0.26; eight of nine local circuits of
the one-class runs are degenerate; cross-evaluation in the last round 67 % (one class, seeds from 33 to 100) and 64 %
(two), with a balanced accuracy of 0.50 and 0.57; of a two-class local circuit's channels the global one has 74 / 82 /
85 %. The authors' files: 0.13 / 0.27 / 0.27 and 0.38 / 0.46 / 0.48, and 100 % in both.
"""

from experiments.paper import section

if __name__ == "__main__":
    section("one-class", "two-class")
