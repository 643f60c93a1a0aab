"""The stages of MobileNet-v2, which the network is built from and published weights are counted by."""

# Expansion, channels, blocks, stride: table 2 of the paper, with stride 1 instead of 2 for the second.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
