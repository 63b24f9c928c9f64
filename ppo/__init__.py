"""Proximal Policy Optimization for any torch `gymnasium.vector.VectorEnv`; knows nothing of dexhand_gym."""
