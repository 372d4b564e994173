"""Prove bench on this machine's card: `make gpu-check` writes results/gpu/CARD.md and .json.

The parts run in order of risk, each in processes of its own, and the report is saved after each of them.
Needs no hub, no W&B and no data set: the models are random weights of true architectures, the texts are
generated. A part says which missing package or device it was left out for.
"""
