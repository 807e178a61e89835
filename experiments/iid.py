"""Section 3.1: IID clients. Figures 1, 2, 10 to 13; claims C1 to C3.

    python -m experiments.iid runs/paper --seeds 3

Five clients with shuffled equal shares, 99 % sparse, 10 rounds; classes 0, 1, 2 and 7. About 15 minutes a seed on two
CPU cores.

Expected (three seeds): global accuracy 94 %; inter-client IoU of global circuits 0.84 / 0.81 / 0.78 (conv1 / conv2 /
conv3) after ten rounds, where chance gives about 0.1 and a second search on the same weights 0.85 / 0.81 / 0.80;
local-to-global 0.86 / 0.83 / 0.85, with 92 / 91 / 93 % of a local circuit's channels kept. The paper says near 1.0
for both; its own figures run from 0.58 to 1.0.
"""

from experiments.paper import section

if __name__ == "__main__":
    section("iid")
