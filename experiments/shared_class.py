"""Section 3.2.2: a class that all clients hold. Figures 9, 18; claims C10, C11.

    python -m experiments.shared_class runs/paper --seeds 3

Three clients with all zeros and two classes of their own each, 99.5 % sparse, 10 rounds (the authors also ran 50).
About 80 s a round on two CPU cores, 13 minutes a seed.

Expected (seed 0): the zeros' circuits are at 100 % on all clients in every round, with a balanced accuracy of 0.50;
four of the six other circuits are under 1 % in some rounds, two of them in the last. The authors' file: the same
picture.
"""

from experiments.paper import section

if __name__ == "__main__":
    section("shared-class")
