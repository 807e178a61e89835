"""Section 3.1: IID clients. Figures 1, 2, 10 to 13; claims C1 to C3.

    python -m experiments.iid runs/paper --seeds 3

Five clients with shuffled equal shares, 99 % sparse, 10 rounds; classes 0, 1, 2 and 7. About 15 minutes a seed on two
CPU cores.

Expected (seed 0): global accuracy 94 %; inter-client IoU of global circuits 0.87 / 0.77 / 0.72 (conv1 / conv2 /
conv3) after ten rounds, where chance gives about 0.1 and a second search on the same weights 0.88 / 0.77 / 0.72;
local-to-global 0.90 / 0.77 / 0.79, with 94 / 90 / 89 % of a local circuit's channels kept. The paper says near 1.0
for both; its own figures run from 0.58 to 1.0.
"""

from experiments.paper import section

if __name__ == "__main__":
    section("iid")
