"""Section 3.1: IID clients. Figures 1, 2, 10 to 13; claims C1 to C3.

    python -m experiments.iid runs/paper --seeds 3

Five clients with shuffled equal shares, 99 % sparse, 10 rounds; classes 0, 1, 2 and 7. About 86 s a round on two CPU
cores, 14 minutes a seed, and a quarter more with the controls.

Expected (seed 0, 250 test images per class): global accuracy 92 %; inter-client IoU of global circuits 0.95 / 0.90 /
0.93 (conv1 / conv2 / conv3) after two rounds and 0.79 / 0.69 / 0.69 after ten, where chance gives about 0.1;
local-to-global 0.80 / 0.70 / 0.66 after ten. The paper says near 1.0 for all three; its own figures run from 0.58 to
1.0.
"""

from experiments.paper import section

if __name__ == "__main__":
    section("iid")
